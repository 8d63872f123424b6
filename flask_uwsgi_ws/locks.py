"""What threads of the operating system wait with; ``locks.pyx`` takes this module's place where
it is compiled.

gevent's patching gives greenlets' versions of these to who imports them after
it; the names here are the unpatched ones in any case.
"""

from __future__ import annotations

import _thread
import time

from .unpatched import unpatched

Lock = unpatched(_thread, "allocate_lock")
#: The number of this thread, the same for all its greenlets.
thread_ident = unpatched(_thread, "get_ident")
#: Let this thread wait, in seconds.
pause = unpatched(time, "sleep")

__all__ = ["Lock", "pause", "thread_ident"]
