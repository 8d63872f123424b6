cpdef bytes unmask(bytes data, Py_ssize_t start, Py_ssize_t end, unsigned int mask, Py_ssize_t offset)


cdef class Payload:
    cdef bytes _whole
    cdef Py_ssize_t _size
    cdef Py_ssize_t _received

    cpdef add(self, bytes data, Py_ssize_t start, Py_ssize_t end, unsigned int mask)
    cpdef bytes take(self)
