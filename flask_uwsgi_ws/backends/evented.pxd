# C types for evented.py. Every name here stands there, where its meaning is.
cimport cython

from flask_uwsgi_ws.client cimport BaseClient
from flask_uwsgi_ws.connection cimport Connection
from flask_uwsgi_ws.locks cimport Lock, thread_ident
from flask_uwsgi_ws.poller cimport Poller
from flask_uwsgi_ws.sockets cimport RawSocket

cdef int _OPEN
cdef int _CLOSED
cdef int _CLOSING
cdef Py_ssize_t _MUCH
cdef Py_ssize_t _AT_ONCE


cdef class Reactor:
    cdef dict __dict__
    cdef readonly Poller poller
    cdef readonly unsigned long thread
    cdef readonly object pid
    cdef readonly int count
    cdef readonly bint in_turn
    cdef readonly int expecting
    cdef list _clients
    cdef list _unsent
    cdef bint _called
    cdef Lock _counting
    cdef bint _foreign_called
    cdef object _foreign

    @cython.locals(poller=Poller, count=int, i=int, client=EventedClient)
    cdef _turn(self)
    @cython.locals(unsent=list, client=EventedClient)
    cdef _send_all(self)
    @cython.locals(client=EventedClient)
    cdef _tick(self)
    cdef _failed(self, EventedClient client)
    cdef add(self, EventedClient client)
    cdef remove(self, EventedClient client)
    cdef will_send(self, EventedClient client)
    cdef count_left(self, EventedClient client, Py_ssize_t size)


cdef class EventedClient(BaseClient):
    cdef RawSocket _raw
    cdef Reactor _reactor
    cdef Py_ssize_t _most_queued
    cdef Py_ssize_t _most_unsent
    cdef Py_ssize_t _most_shared
    cdef list _inbox
    cdef Py_ssize_t _taken
    cdef bytes _head
    cdef Py_ssize_t _sent
    cdef list _outbox
    cdef Py_ssize_t _unsent
    cdef Py_ssize_t _left
    cdef bint _will_send
    cdef bint _reading
    cdef bint _writing
    cdef bint _eof
    cdef bint _answered
    cdef bint _lost
    cdef bint _moved
    cdef double _moved_at
    cdef object _ended_at
    cdef object _receiver
    cdef list _others

    cdef _wake(self, object waiter)
    cdef changed(self)
    cdef _wake_receiver(self)
    @cython.locals(others=list)
    cdef _wake_others(self)
    cdef _add_waiter(self, object waiter, bint receiving)
    cdef _remove_waiter(self, object waiter)
    @cython.locals(data=bytes)
    cdef read_in(self)
    @cython.locals(connection=Connection, inbox=list, before=Py_ssize_t)
    cdef _take_in(self, bytes data)
    cdef read_again(self)
    cdef bint _has_message(self)
    cdef bint _is_too_late(self, object deadline)
    @cython.locals(inbox=list)
    cdef object _take(self)
    cdef _read_on(self)
    cdef bint _has_enough(self)
    cdef _watch(self, bint reading, bint writing)
    cdef _put(self, bytes frame)
    cdef _put_ready(self, bytes frame)
    cdef bint _has_caught_up(self)
    @cython.locals(data=bytes, count=Py_ssize_t, waiting=bint)
    cdef send_out(self)
    @cython.locals(pieces=list, outbox=list, frame=bytes, count=Py_ssize_t, size=Py_ssize_t)
    cdef _join(self)
    cdef _drop_unsent(self)
    cdef _leave(self, bytes frame)
    cdef bint _has_much_to_send(self)
    cdef check_room(self)
    cdef put_now(self, bytes frame)
    cdef bint _is_foreign(self)
    cdef _send_foreign(self, bytes frame)
    cdef bint start_closing(self, object code, object reason)
    cdef _close_foreign(self, object code, object reason)
    cdef give_up(self, object cause, object code, object reason)
    cdef lose(self)
    cdef attend(self, double now)
