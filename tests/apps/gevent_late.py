"""An app that takes what gevent patches before it makes its extension."""

from __future__ import annotations

from socket import socket as socket
from ssl import SSLContext as SSLContext
from threading import Lock as Lock

from common import app as app
