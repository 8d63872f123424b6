# C types for connection.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.frames cimport Frame, FrameParser, header, serialize
from flask_uwsgi_ws.texts cimport text_frame

cdef int _TEXT
cdef int _BINARY
cdef int _CONTINUATION
cdef int _OPEN
cdef Py_ssize_t _LARGE
cdef Py_ssize_t _LARGEST
cdef int _CLOSED
cdef bytearray _NOTHING


cdef class Connection:
    cdef readonly int state
    cdef readonly object close_code
    cdef readonly str close_reason
    cdef readonly bytes last_pong
    cdef readonly Py_ssize_t messages_received
    cdef readonly Py_ssize_t messages_sent
    cdef readonly bint has_replies
    cdef readonly bint faulty
    cdef readonly bint compresses
    cdef readonly object shared_compression
    cdef object _deflate
    cdef FrameParser _parser
    cdef Py_ssize_t _max_size
    cdef list _replies
    cdef bint _failed
    cdef object _fault
    cdef int _opcode
    cdef bint _compressed
    cdef bint _collecting
    cdef bytearray _message
    cdef Py_ssize_t _checked

    @cython.locals(messages=list)
    cpdef list receive_data(self, bytes data)
    @cython.locals(parser=FrameParser, frame=Frame)
    cpdef receive_into(self, bytes data, list messages)

    cpdef receive_eof(self)
    cdef bint _is_whole(self, Frame frame)
    cdef _part(self, Frame frame, list messages)
    cdef bint _can_be_collected(self, Frame frame)
    cdef _check_text(self, bint ended)
    cdef _control(self, Frame frame)
    cdef _close_frame(self, bytes payload)
    cdef _fail(self, object fault, list messages)
    cdef _reply(self, bytes frame)
    cpdef bytes take_replies(self)
    cpdef bytes compress(self, bytes frame)
    cpdef bytes send_text(self, object message)
    cpdef bytes send_utf8(self, bytes message)
    cpdef bytes send_binary(self, bytes message)
    cpdef bytes send_buffer(self, object message)
