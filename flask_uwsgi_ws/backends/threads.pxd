# C types for threads.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.locks cimport Lock, pause, thread_ident
from flask_uwsgi_ws.sockets cimport RawSocket
from flask_uwsgi_ws.client cimport BaseClient
from flask_uwsgi_ws.connection cimport Connection

cdef int _OPEN

cdef double _remaining(double deadline)
cdef int _NOW


cdef class WebSocketClient(BaseClient):
    cdef Lock _reading
    cdef Lock _writing
    cdef Lock _order
    cdef object _backlog
    cdef Py_ssize_t _rest
    cdef bint _watched
    cdef Py_ssize_t _held
    cdef bint _holding
    cdef bint _may_hold
    cdef unsigned long _receiver
    cdef Py_ssize_t _read_size
    cdef double _send_timeout
    cdef Py_ssize_t _most_unsent
    cdef Py_ssize_t _most_shared
    cdef RawSocket _raw
    cdef object _inbox
    cdef object _ended_at
    cdef bint _closing_early
    cdef object _stuck_at
    cdef Py_ssize_t _stuck_bytes

    cdef _wait(self)
    cdef _wait_until(self, double deadline)
    @cython.locals(end=double, slow_at=double, taken=Py_ssize_t)
    cdef _wait_for_backlog(self, double timeout)
    cdef Py_ssize_t _waiting(self)
    cdef bint _readable(self, double deadline)
    @cython.locals(size=Py_ssize_t, data=bytes)
    cdef _read(self, int flags)
    @cython.locals(connection=Connection)
    cdef _take_in(self, bytes data)
    @cython.locals(data=bytes)
    cdef _send(self, bytes frame)
    @cython.locals(replies=bytes)
    cdef bytes _hold_or_take(self, bytes frame)
    cdef _reply(self, bytes frames)
    @cython.locals(sent=Py_ssize_t)
    cdef _write(self, bytes data, double timeout)
    cdef _write_rest(self, bytes data, Py_ssize_t sent, double timeout)
    cdef _hold(self, bytes frame)
    @cython.locals(data=bytes, sent=Py_ssize_t)
    cdef _send_backlog(self)
    cdef bytes _take_backlog(self)
