# C types for connection.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.frames cimport Frame, FrameParser, serialize

cdef int _TEXT
cdef int _BINARY
cdef int _CONTINUATION
cdef int _OPEN
cdef int _CLOSED


cdef class Connection:
    cdef readonly int state
    cdef readonly object close_code
    cdef readonly str close_reason
    cdef readonly bytes last_pong
    cdef readonly bint has_replies
    cdef FrameParser _parser
    cdef Py_ssize_t _max_size
    cdef list _replies
    cdef bint _failed
    cdef int _opcode
    cdef bytearray _message
    cdef Py_ssize_t _checked

    @cython.locals(messages=list, parser=FrameParser, frame=Frame)
    cpdef list receive_data(self, bytes data)

    cpdef receive_eof(self)
    cdef bint _is_whole(self, Frame frame)
    cdef _part(self, Frame frame, list messages)
    cdef _check_text(self, bint ended)
    cdef _control(self, Frame frame)
    cdef _close_frame(self, bytes payload)
    cdef _fail(self, int code, str reason)
    cdef _reply(self, bytes frame)
    cpdef bytes take_replies(self)
    cpdef bytes send_text(self, object message)
    cpdef bytes send_binary(self, bytes message)
