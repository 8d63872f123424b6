# C types for client.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.connection cimport Connection

cdef int _OPEN


cdef class BaseClient:
    cdef dict __dict__
    cdef object __weakref__
    cdef readonly object environ
    cdef readonly int fd
    cdef object _id
    cdef public object messenger
    cdef readonly object subprotocol
    cdef public object timeout
    cdef object _socket
    cdef object _settings
    cdef Connection _connection
    cdef bint _end_told
    cdef bint _heard
    cdef double _heard_at
    cdef object _pinged_at
    cdef object _overdue_at
    cdef double _asked_at
    cdef bytes _asked
    cdef object _latency
    cdef readonly double opened_at
    cdef public object route
    cdef readonly object dropped
    cdef readonly Py_ssize_t bytes_received
    cdef readonly Py_ssize_t bytes_sent

    cdef object _ended(self)
    cdef _end_of_messages(self)
    @cython.locals(connection=Connection)
    cdef bytes _frame(self, object message, object binary)
    cdef bytes _ping_frame(self, object data)
    cdef int _keep_alive(self, double now)
    cdef bytes _keepalive_ping(self)
    cdef _look_for_pong(self)
