# C types for frames.py. Every name here stands there, where its meaning is.
cimport cython

cdef bint _compiled
cdef int _OPCODES
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


@cython.locals(
    size=Py_ssize_t, i=Py_ssize_t, shift=Py_ssize_t,
    source="const unsigned char *", key="const unsigned char *",
    out="unsigned char *", part=bytes,
    m0="unsigned char", m1="unsigned char", m2="unsigned char", m3="unsigned char",
)
cpdef bytes unmask(bytes data, Py_ssize_t start, Py_ssize_t end, bytes mask, Py_ssize_t offset)


cdef class FrameParser:
    cdef int _reserved
    cdef bytes _data
    cdef Py_ssize_t _pos
    cdef Py_ssize_t _remaining
    cdef Py_ssize_t _received
    cdef int _first_byte
    cdef Py_ssize_t _length
    cdef bytes _mask

    cpdef feed(self, bytes data)

    @cython.locals(
        pos=Py_ssize_t, size=Py_ssize_t, length=Py_ssize_t, header=Py_ssize_t, i=Py_ssize_t,
        available=Py_ssize_t, count=Py_ssize_t, minimum=Py_ssize_t, first_byte=int, data="const unsigned char *",
    )
    cpdef Frame next_frame(self)

    @cython.locals(count=Py_ssize_t, end=Py_ssize_t, frame=Frame)
    cdef Frame _piece(self, Py_ssize_t pos, Py_ssize_t size, bint first)


@cython.locals(size=Py_ssize_t, first_byte=int)
cpdef bytes serialize(int opcode, bytes payload, bint fin=*, int rsv=*)

@cython.locals(first_byte=int)
cpdef bytes header(int opcode, Py_ssize_t size, bint fin=*, int rsv=*)
