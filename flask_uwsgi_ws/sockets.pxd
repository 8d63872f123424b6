cdef class RawSocket:
    cdef int _fd

    cpdef bytes recv(self, Py_ssize_t size, int flags=*)
    cpdef bytes recv_now(self)
    cpdef Py_ssize_t send_now(self, bytes data, Py_ssize_t start=*)
