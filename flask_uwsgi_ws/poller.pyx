"""Which of many sockets can be read or written: Linux's epoll, without a Python object an event.

Edge-triggered: each readiness is told once. With level-triggered events the
kernel would look at each socket twice for each message, which took a tenth of
an echo's time.

See ``poller.py``, which says what the methods do and is used where this is not compiled.
"""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EINTR, errno
from posix.unistd cimport close

cdef extern from "sys/epoll.h" nogil:
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLHUP
        EPOLLERR
        EPOLLET


cdef class Poller:
    """Watches descriptors, and is itself a descriptor that an event loop can watch."""

    def __cinit__(self):
        self._epoll = -1
        # What each descriptor is watched for, so that one that is not is found without a call.
        self._wanted = bytearray(64)

    def __init__(self):
        if self._epoll < 0:
            self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self._epoll >= 0:
            close(self._epoll)

    def fileno(self):
        """The descriptor to watch: readable when :meth:`wait` has something to tell."""
        return self._epoll

    cpdef watch(self, int fd, bint reading, bint writing):
        """Watch *fd* for what is wanted, instead of what was wanted before."""
        if fd < 0:
            raise ValueError("a descriptor is 0 or more")
        while fd >= len(self._wanted):
            self._wanted.extend(bytes(len(self._wanted)))
        cdef int before = self._wanted[fd]
        cdef int wanted = reading | writing << 1
        cdef int operation
        if wanted == before:
            return
        if not before:
            operation = EPOLL_CTL_ADD
        else:
            operation = EPOLL_CTL_MOD if wanted else EPOLL_CTL_DEL
        self._control(operation, fd, wanted)
        self._wanted[fd] = wanted

    cpdef watch_again(self, int fd):
        """Tell of *fd* again if it is still ready, which otherwise is told only once."""
        if 0 <= fd < len(self._wanted) and self._wanted[fd]:
            self._control(EPOLL_CTL_MOD, fd, self._wanted[fd])

    cdef _control(self, int operation, int fd, int wanted):
        cdef epoll_event event
        event.events = EPOLLET
        if wanted & 1:
            event.events |= EPOLLIN | EPOLLRDHUP
        if wanted & 2:
            event.events |= EPOLLOUT
        event.data.fd = fd
        if epoll_ctl(self._epoll, operation, fd, &event) != 0:
            PyErr_SetFromErrno(OSError)

    cpdef int wait(self) except -1:
        """Ask which are ready, without waiting; gives how many."""
        cdef int count = epoll_wait(self._epoll, self._ready, MOST, 0)
        if count < 0:
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            count = 0
        return count

    cpdef int fd(self, int number):
        """The descriptor of that one of the ready."""
        return self._ready[number].data.fd

    cpdef bint ended(self, int number):
        """Whether the peer has said that nothing more will come, so far as that is known."""
        return self._ready[number].events & <unsigned int>(EPOLLRDHUP | EPOLLHUP | EPOLLERR) != 0

    # An error or a hang-up is told by what reads or writes next.

    cpdef bint readable(self, int number):
        """Whether it can be read, or has an error to tell."""
        return self._ready[number].events & ~<unsigned int>EPOLLOUT != 0

    cpdef bint writable(self, int number):
        """Whether it can be written, or has an error to tell."""
        return self._ready[number].events & ~<unsigned int>EPOLLIN != 0

    def close(self):
        """Give the descriptor back."""
        if self._epoll >= 0:
            close(self._epoll)
            self._epoll = -1
