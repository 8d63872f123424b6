cpdef bytes text_frame(object message)
