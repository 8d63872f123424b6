"""Masking of payloads, RFC 6455 section 5.3, in one pass from where they came to where they stay."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy


cdef void _apply(
    const unsigned char *source, unsigned char *out, Py_ssize_t size, unsigned int mask, Py_ssize_t offset
) noexcept nogil:
    cdef unsigned char key[8]
    cdef uint64_t keys, word
    cdef Py_ssize_t i
    for i in range(8):
        key[i] = <unsigned char>(mask >> 8 * ((offset + i) & 3))
    memcpy(&keys, key, 8)
    i = 0
    # Copied in and out of a word, which costs nothing and minds neither alignment nor byte order.
    while i + 8 <= size:
        memcpy(&word, source + i, 8)
        word ^= keys
        memcpy(out + i, &word, 8)
        i += 8
    while i < size:
        out[i] = source[i] ^ key[i & 7]
        i += 1


cdef inline int _check(bytes data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t offset) except -1:
    if data is None:
        raise TypeError("None is not bytes")
    if start < 0 or end < start or end > PyBytes_GET_SIZE(data) or offset < 0:
        raise ValueError("that part is not in the data")
    return 0


cpdef bytes unmask(bytes data, Py_ssize_t start, Py_ssize_t end, unsigned int mask, Py_ssize_t offset):
    """Apply the masking key to a part of *data*."""
    cdef bytes part
    cdef unsigned char single
    _check(data, start, end, offset)
    cdef const unsigned char *source = <const unsigned char *>PyBytes_AS_STRING(data) + start
    if end - start <= 1:
        # Python shares these, so that they can not be made and then filled.
        _apply(source, &single, end - start, mask, offset)
        return PyBytes_FromStringAndSize(<const char *>&single, end - start)
    part = PyBytes_FromStringAndSize(NULL, end - start)
    _apply(source, <unsigned char *>PyBytes_AS_STRING(part), end - start, mask, offset)
    return part


cdef class Payload:
    """The payload of a large frame, put together as it arrives.

    :param size: how many bytes it will have.
    """

    def __init__(self, Py_ssize_t size):
        if size < 2:
            raise ValueError("that is not large")
        self._size = size
        self._received = 0
        self._whole = PyBytes_FromStringAndSize(NULL, size)

    cpdef add(self, bytes data, Py_ssize_t start, Py_ssize_t end, unsigned int mask):
        """Unmask a part of *data* and put it behind the parts before."""
        _check(data, start, end, 0)
        if self._whole is None or end - start > self._size - self._received:
            raise ValueError("the payload has no room for that")
        _apply(
            <const unsigned char *>PyBytes_AS_STRING(data) + start,
            <unsigned char *>PyBytes_AS_STRING(self._whole) + self._received,
            end - start,
            mask,
            self._received,
        )
        self._received += end - start

    cpdef bytes take(self):
        """Give the payload, once."""
        if self._whole is None or self._received < self._size:
            raise ValueError("the payload is not whole yet")
        whole = self._whole
        self._whole = None
        return whole
