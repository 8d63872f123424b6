"""The end of a server that is not uWSGI: its clients are told, when the program ends by itself.

``flask run`` ends with Ctrl-C, and with its reloader when a file changes.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from typing import TYPE_CHECKING

from .ending import GOING_AWAY, SERVICE_RESTART, reason
from .locks import pause

if TYPE_CHECKING:
    from .clients import Clients

# Seconds for the loops to begin the closes, at most, and for the Close frames to leave.
_HURRY, _LAST_MOMENT = 0.5, 0.05

_registries: weakref.WeakSet[Clients] = weakref.WeakSet()


def tell_at_exit(clients: Clients) -> None:
    """See that *clients* are told of the end of this program."""
    if not _registries:
        atexit.register(_tell)
    _registries.add(clients)


def _tell() -> None:
    # Werkzeug's reloader starts the program anew; a stop looks the same from here.
    reloads = os.environ.get("WERKZEUG_RUN_MAIN") == "true"
    code = SERVICE_RESTART if reloads else GOING_AWAY
    clients = [client for each in _registries for client in each]
    for client in clients:
        client.begin_close(code, reason(code))
    end = time.monotonic() + _HURRY
    while any(client.connected for client in clients) and time.monotonic() < end:
        pause(0.01)
    if clients:
        pause(_LAST_MOMENT)
