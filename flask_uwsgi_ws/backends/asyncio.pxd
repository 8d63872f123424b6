# C types for asyncio.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.backends.evented cimport EventedClient, Reactor
from flask_uwsgi_ws.locks cimport thread_ident

cdef int _OPEN


cdef class AsyncioReactor(Reactor):
    cdef readonly object loop
    cdef readonly object greenlet
    cdef object _ticks
    cdef object _later


cdef class AsyncioWebSocketClient(EventedClient):
    cdef object _loop
    cdef object _greenlet
    cdef object _tasks

    cdef bint _is_foreign(self)
    cdef _wake(self, object waiter)
    cdef poll_message(self)
