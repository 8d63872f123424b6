"""The names of other WebSocket packages for Flask: an app moves by changing its import."""
