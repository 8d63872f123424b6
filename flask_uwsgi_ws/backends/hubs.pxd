# C types for hubs.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.greenlets cimport current, switch
from flask_uwsgi_ws.backends.evented cimport EventedClient, Reactor

cdef int _OPEN


cdef class HubReactor(Reactor):
    cdef readonly object hub
    cdef public bint in_hub
    cdef object call
    cdef object timer
    cdef object sleep


@cython.freelist(64)
cdef class _Waiter:
    cdef object greenlet

    cdef switch(self)


cdef class HubClient(EventedClient):
    cdef HubReactor _hub_reactor
    cdef Py_ssize_t _most_at_once

    @cython.locals(waiter=_Waiter, reactor=HubReactor)
    cdef _wake(self, object waiting)
    @cython.locals(reactor=HubReactor, waiter=_Waiter)
    cdef _block(self, bint receiving, object deadline)
    cdef bint _wait_for_message(self, object timeout)
    cdef _wait_until(self, double deadline)
    @cython.locals(waiter=_Waiter)
    cdef _park(self)
    cdef _check_hub(self)
    cdef _send(self, bytes frame)
    cdef _wait_to_send(self)
