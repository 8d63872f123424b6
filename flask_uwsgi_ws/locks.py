"""The lock of the threads backend; ``locks.pyx`` takes this module's place where it is compiled."""

from threading import Lock

__all__ = ["Lock"]
