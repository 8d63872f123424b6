# C types for asyncio.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.backends.evented cimport EventedClient, Reactor

cdef int _OPEN


cdef class AsyncioReactor(Reactor):
    cdef readonly object loop
    cdef object _ticks
    cdef object _later


cdef class AsyncioWebSocketClient(EventedClient):
    cdef object _loop
    cdef object _tasks

    cdef _wake(self, object waiter)
    cdef poll_message(self)
