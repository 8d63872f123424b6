# C types for gevent.py. Every name here stands there, where its meaning is.
from flask_uwsgi_ws.greenlets cimport current
from flask_uwsgi_ws.backends.hubs cimport HubClient, HubReactor


cdef class GeventReactor(HubReactor):
    cdef object _io
    cdef object _ticks
    cdef object _async


cdef class GeventWebSocketClient(HubClient):
    pass
