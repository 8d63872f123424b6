"""Frames of text, written in one step: without the UTF-8 as an object of its own."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_Check
from libc.string cimport memcpy

from flask_uwsgi_ws.frames cimport header

from flask_uwsgi_ws.frames import TEXT

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL

cdef int _TEXT = TEXT

# What Python would keep beside the text, for the next time: not of long ones.
cdef enum:
    LONG = 1024


cpdef bytes text_frame(object message):
    """Make the frame of a text message."""
    cdef Py_ssize_t size
    cdef const char *utf8
    cdef bytes frame
    cdef bytes start
    cdef char *out
    if not PyUnicode_Check(message):
        raise TypeError("a text message is a str")
    if len(message) > LONG and not message.isascii():
        encoded = str.encode(message)
        return header(_TEXT, len(encoded)) + encoded
    utf8 = PyUnicode_AsUTF8AndSize(message, &size)
    if size < 126:
        frame = PyBytes_FromStringAndSize(NULL, size + 2)
        out = PyBytes_AS_STRING(frame)
        out[0] = <char>(0x80 | _TEXT)
        out[1] = <char>size
        memcpy(out + 2, utf8, size)
        return frame
    start = header(_TEXT, size)
    frame = PyBytes_FromStringAndSize(NULL, size + len(start))
    out = PyBytes_AS_STRING(frame)
    memcpy(out, PyBytes_AS_STRING(start), len(start))
    memcpy(out + len(start), utf8, size)
    return frame
