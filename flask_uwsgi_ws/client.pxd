# C types for client.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.connection cimport Connection

cdef int _OPEN


cdef class BaseClient:
    cdef dict __dict__
    cdef object __weakref__
    cdef readonly object environ
    cdef readonly int fd
    cdef readonly str id
    cdef readonly object subprotocol
    cdef public object timeout
    cdef object _socket
    cdef object _settings
    cdef Connection _connection
    cdef object _inbox
    cdef bint _end_told

    cdef object _ended(self)
    cdef _end_of_messages(self)
    @cython.locals(connection=Connection)
    cdef bytes _frame(self, object message, object binary)
    cdef bint _reading_is_wanted(self)


cdef class SyncClient(BaseClient):
    pass
