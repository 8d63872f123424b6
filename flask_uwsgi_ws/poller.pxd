cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data

cdef enum:
    MOST = 256


cdef class Poller:
    cdef int _epoll
    cdef bytearray _wanted
    cdef epoll_event _ready[MOST]

    cpdef watch(self, int fd, bint reading, bint writing)
    cdef _control(self, int operation, int fd, int wanted)
    cpdef watch_again(self, int fd)
    cpdef int wait(self) except -1
    cpdef int fd(self, int number)
    cpdef bint ended(self, int number)
    cpdef bint readable(self, int number)
    cpdef bint writable(self, int number)
