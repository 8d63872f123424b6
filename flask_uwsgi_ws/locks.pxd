from cpython.pythread cimport PyThread_type_lock


cdef class Lock:
    cdef PyThread_type_lock _lock
    cdef bint _held

    cpdef bint acquire(self, bint blocking=*, double timeout=*)
    cpdef release(self)
    cpdef bint locked(self)


cpdef unsigned long thread_ident() noexcept
cpdef pause(double seconds)
