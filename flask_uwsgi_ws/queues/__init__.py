"""How a message reaches all whom it is for: in this worker, or through what joins the workers."""
