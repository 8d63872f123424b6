# C types for threads.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.locks cimport Lock
from flask_uwsgi_ws.sockets cimport RawSocket
from flask_uwsgi_ws.client cimport SyncClient
from flask_uwsgi_ws.connection cimport Connection

cdef int _OPEN

cdef double _remaining(double deadline)
cdef int _NOW


cdef class WebSocketClient(SyncClient):
    cdef Lock _reading
    cdef Lock _writing
    cdef object _backlog
    cdef Py_ssize_t _read_size
    cdef double _send_timeout
    cdef RawSocket _raw
    cdef bint _heard
    cdef double _heard_at
    cdef object _pinged_at
    cdef object _ended_at

    cdef _wait(self)
    cdef _wait_until(self, double deadline)
    cdef _wait_for_backlog(self, double timeout)
    cdef bint _readable(self, double deadline)
    @cython.locals(connection=Connection, size=Py_ssize_t, data=bytes)
    cdef _read(self, int flags)
    @cython.locals(replies=bytes)
    cdef _send(self, bytes frame)
    @cython.locals(sent=Py_ssize_t)
    cdef _write(self, bytes data, double timeout)
    cdef _write_rest(self, bytes data, Py_ssize_t sent, double timeout)
    cdef _send_backlog(self)
    cdef bytes _take_backlog(self)
