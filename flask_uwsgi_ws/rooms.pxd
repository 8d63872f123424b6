# C types for rooms.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.locks cimport Lock


cdef class Fanout:
    cdef readonly bytes frame
    cdef dict _compressed

    cpdef bint put(self, client)


cdef class Member:
    cdef public object info
    cdef public list waiting
    cdef public tuple after


cdef class Rooms:
    cdef dict __dict__
    cdef Lock _lock
    cdef dict _members
    cdef readonly dict _rooms
    cdef readonly dict _by_id
    cdef Py_ssize_t _sent

    @cython.locals(members=dict, member=Member, sent=Py_ssize_t)
    cpdef deliver(self, room, Fanout message, skip, place=*)
