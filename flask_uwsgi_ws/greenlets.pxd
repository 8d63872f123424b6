cdef extern from "greenlet/greenlet.h":
    ctypedef class greenlet.greenlet [object PyGreenlet]:
        pass

cpdef greenlet current()
cpdef switch(greenlet waiting)
