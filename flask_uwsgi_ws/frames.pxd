# C types for frames.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.masking cimport Payload, unmask

cdef int _OPCODES
cdef Py_ssize_t _LARGE
cdef list _SHORT_TEXT


@cython.freelist(16)
cdef class Frame:
    cdef readonly int opcode
    cdef readonly bint fin
    cdef readonly int rsv
    cdef readonly Py_ssize_t length
    cdef readonly bytes payload
    cdef readonly bint first
    cdef readonly bint last


cdef class FrameParser:
    cdef int _reserved
    cdef bytes _data
    cdef Py_ssize_t _pos
    cdef Py_ssize_t _remaining
    cdef Py_ssize_t _received
    cdef int _first_byte
    cdef Py_ssize_t _length
    cdef unsigned int _mask

    cdef Payload _payload

    cpdef collect(self)
    cpdef feed(self, bytes data)

    @cython.locals(
        pos=Py_ssize_t, size=Py_ssize_t, length=Py_ssize_t, header=Py_ssize_t, i=Py_ssize_t,
        available=Py_ssize_t, count=Py_ssize_t, minimum=Py_ssize_t, first_byte=int, data="const unsigned char *",
    )
    cpdef Frame next_frame(self)

    @cython.locals(count=Py_ssize_t, payload=bytes)
    cdef Frame _piece(self, Py_ssize_t pos, Py_ssize_t size, bint first)
    @cython.locals(count=Py_ssize_t, payload=Payload)
    cdef Frame _collected(self, Py_ssize_t pos, Py_ssize_t size)
    cdef _taken(self, Py_ssize_t end, Py_ssize_t count)
    @cython.locals(frame=Frame)
    cdef Frame _frame(self, Py_ssize_t end, Py_ssize_t count, bytes payload, bint first)


@cython.locals(size=Py_ssize_t, first_byte=int)
cpdef bytes serialize(int opcode, bytes payload, bint fin=*, int rsv=*)

@cython.locals(first_byte=int)
cpdef bytes header(int opcode, Py_ssize_t size, bint fin=*, int rsv=*)
