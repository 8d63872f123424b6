"""Where the server keeps the socket of a request, and how its handshake is answered there.

uWSGI closes its own descriptor when the request ends; a duplicate taken before
that keeps the connection, and it is the package's from then on. None of
uWSGI's request-bound functions may be called after the hand-over.

Other servers shut the connection down when the request ends, so that the request has to last
as long as the handler: Werkzeug's, gunicorn, gevent's and eventlet's. Each has a place for the
socket in the environ.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import ModuleType
from typing import Any, NamedTuple

from .handshake import Answer, refusal
from .unpatched import unpatched

#: Where ``testing.py`` puts the socket of a connection in the environ, and what to call with an
#: exception of the handler.
TEST_SOCKET, TEST_FAILED = "flask_uwsgi_ws.socket", "flask_uwsgi_ws.failed"

# Where Werkzeug and gunicorn have it.
_WERKZEUG_SOCKET, _GUNICORN_SOCKET = "werkzeug.socket", "gunicorn.socket"
_NO_SOCKET = (
    "this server (waitress is one) does not give its connections away; start the app with the "
    "uwsgi command, app.run(), flask run, gunicorn --threads or -k gevent, gevent.pywsgi or "
    "eventlet"
)
_ANSWERED_ALREADY = (
    "the server has answered it already, as gevent-websocket does; start it without a class for "
    "WebSockets (handler_class, gunicorn's -k), or with the one in flask_uwsgi_ws.compat"
)
# Where eventlet has what it reads the request from.
_EVENTLET_INPUT = "eventlet.input"


class Handover(NamedTuple):
    """A connection that a server has given away.

    :param fd: a descriptor of it, which the receiver has to close.
    :param early: what the server has read behind the handshake.
    :param release: what to call when the handler has ended, before the request does; ``None``
        where the request may end before the handler.
    """

    fd: int
    early: bytes = b""
    release: Callable[[], None] | None = None


def uwsgi_module() -> ModuleType | None:
    """Give the ``uwsgi`` module, which is there only inside uWSGI."""
    try:
        return importlib.import_module("uwsgi")
    except ImportError:
        return None


def uwsgi_options() -> Mapping[str, Any]:
    """Give the options uWSGI was started with (``uwsgi.opt``); empty outside it."""
    uwsgi = uwsgi_module()
    if uwsgi is None:
        return {}
    return {
        key.decode() if isinstance(key, bytes) else key: value for key, value in uwsgi.opt.items()
    }


def is_on(value: Any) -> bool:
    """Tell whether an option with this value is set: a flag in a configuration may be ``false``."""
    last = value[-1] if isinstance(value, list) else value
    text = last.decode() if isinstance(last, bytes) else str(last)
    return text.lower() not in {"false", "off", "no", "0"}


def has_master() -> bool:
    """Tell whether a master process starts a worker anew that has ended (``--master``)."""
    uwsgi: Any = uwsgi_module()
    return uwsgi is not None and uwsgi.masterpid() != 0


def loop_engine() -> str:
    """Name the event loop that uWSGI runs (``--gevent``, ``--asyncio``); empty for none."""
    engine = getattr(uwsgi_module(), "loop", None) or ""
    return engine.decode() if isinstance(engine, bytes) else engine


def has_threads(options: Mapping[str, Any]) -> bool:
    """Tell whether options of uWSGI ask for several threads (``--threads``)."""
    value = options.get("threads")
    number = value.decode() if isinstance(value, bytes) else str(value)
    return number.isdigit() and int(number) > 1


def threads_beside(engine: str) -> str:
    """Say what is wrong with ``--threads`` beside an event loop.

    uWSGI 2.0.31 has room for as many requests as there are threads then, and serves as many as
    the event loop takes: under load it gives requests the environ of none, and the worker dies.

    :param engine: the option that starts the event loop.
    """
    return f"threads and {engine} exclude each other in uWSGI, which crashes: leave threads out"


def server_hub() -> str:
    """Name whose hub runs this greenlet, ``gevent`` or ``eventlet``; empty for a plain thread."""
    greenlet = sys.modules.get("greenlet")
    hub = greenlet.getcurrent().parent if greenlet is not None else None
    if hub is None:
        return ""
    gevent_hub = sys.modules.get("gevent.hub")
    if gevent_hub is not None and isinstance(hub, gevent_hub.Hub):
        return "gevent"
    eventlet_hubs = sys.modules.get("eventlet.hubs")
    if eventlet_hubs is not None and hub is eventlet_hubs.get_hub().greenlet:
        return "eventlet"
    return ""


def plain_socket(fd: int) -> socket.socket:
    """Make a socket of a descriptor, not gevent's where that has replaced them.

    Ours is read and written by a backend alone; gevent's would have two
    watchers that nobody uses.
    """
    sock: socket.socket = unpatched(socket, "socket")(fileno=fd)
    return sock


def threads_run() -> bool:
    """Tell whether Python threads run in this process beside the requests.

    uWSGI runs them from 2.0.22 on; an older one does with
    ``--enable-threads`` or ``--threads`` above 1 only.
    """
    return bool(getattr(uwsgi_module(), "has_threads", True))


def refusal_here(environ: Mapping[str, Any]) -> Answer | None:
    """Say why this server can not give its connections away.

    :param environ: the WSGI environ.
    :returns: the refusal to send; ``None`` where it can.
    """
    held = _held_socket(environ)
    if held is not None or uwsgi_module() is None:
        obstacle = _obstacle_elsewhere(environ, held)
        if obstacle is None:
            return None
        refused = refusal(
            HTTPStatus.NOT_IMPLEMENTED, obstacle, log=f"WebSocket handshake refused: {obstacle}"
        )
        if held is None:
            # Which waitress does not take from an app.
            refused.headers.remove(("Connection", "close"))
        return refused
    if _router_lacks_websockets():
        return refusal(
            HTTPStatus.NOT_IMPLEMENTED,
            "uWSGI's router was started without --http-websockets and would lose every message",
            log="WebSocket handshake refused: start uWSGI with --http-websockets",
        )
    if environ.get("wsgi.url_scheme") == "https" and _has_https_socket():
        return refusal(
            HTTPStatus.NOT_IMPLEMENTED,
            "--https-socket keeps the connection inside TLS; use --https, "
            "whose router ends TLS before the worker, with --http-websockets",
            log="WebSocket handshake refused: use --https instead of --https-socket",
        )
    return None


def request_is_held(environ: Mapping[str, Any]) -> bool:
    """Tell whether this server's request has to last as long as its handler.

    :param environ: the WSGI environ.
    """
    return _held_socket(environ) is not None


def take_connection(
    environ: Mapping[str, Any],
    start_response: Callable[..., Any],
    answer: Answer,
) -> Handover | Answer:
    """Send the 101 and take the connection over from the server.

    :param environ: the WSGI environ.
    :param start_response: the WSGI callable.
    :param answer: an accepting one.
    :returns: the connection, or a refusal to send where there is no descriptor left.
    :raises OSError: if the client left before the 101 was sent.
    """
    uwsgi: Any = uwsgi_module()
    held = _held_socket(environ)
    try:
        fd = os.dup(uwsgi.connection_fd() if held is None else held.fileno())
    except OSError as error:
        return refusal(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the server has no descriptor left; try again later",
            log=f"WebSocket handshake refused: {error}; raise the limit (ulimit -n, --max-fd)",
        )
    try:
        if held is not None:
            return _take_from_holder(fd, held, environ, start_response, answer)
        if _native_can_say(uwsgi, environ, answer):
            uwsgi.websocket_handshake(
                environ["HTTP_SEC_WEBSOCKET_KEY"],
                environ.get("HTTP_ORIGIN", ""),
                answer.subprotocol or "",
            )
        else:
            write = start_response(_status(answer), list(answer.headers))
            write(b"")
    except BaseException:
        os.close(fd)
        raise
    return Handover(fd)


def _held_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """Find the socket of a request that has to last as long as the handler."""
    for name in (TEST_SOCKET, _WERKZEUG_SOCKET, _GUNICORN_SOCKET):
        sock: socket.socket | None = environ.get(name)
        if sock is not None:
            return sock
    if _EVENTLET_INPUT in environ:
        sock = environ[_EVENTLET_INPUT].get_socket()
    elif environ.get("SERVER_SOFTWARE", "").startswith("gevent/"):
        # Without an Upgrade header the stream is inside gevent's own.
        stream = environ["wsgi.input"]
        stream = getattr(stream, "rfile", stream)
        sock = getattr(getattr(stream, "raw", None), "_sock", None)
    return sock


def _take_from_holder(
    fd: int,
    sock: socket.socket,
    environ: Mapping[str, Any],
    start_response: Callable[..., Any],
    answer: Answer,
) -> Handover:
    # These servers would add headers of their own, "Connection: close" or "Transfer-Encoding",
    # which some clients take for a refusal. So the 101 goes out here.
    start_response(_status(answer), list(answer.headers))
    lines = [f"HTTP/1.1 {_status(answer)}", *(f"{name}: {value}" for name, value in answer.headers)]
    release = functools.partial(_release, environ, sock)
    _forget_response(environ, start_response)
    try:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return Handover(fd, _read_ahead(environ, sock), release)
    except BaseException:
        release()
        raise


def _forget_response(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> None:
    """See that the server does not send the response once more when the request ends.

    Werkzeug has nothing for it: it meets a closed connection then, and a line of its log is all
    that comes of it. eventlet is told in :func:`_release`.
    """
    response: Any = getattr(start_response, "__self__", None)
    if _GUNICORN_SOCKET in environ and hasattr(response, "force_close"):
        response.headers_sent, response.chunked = True, False
        response.force_close()
    elif hasattr(response, "response_use_chunked"):
        # gevent's handler.
        response.headers_sent = response.close_connection = True
        response.response_use_chunked = False


def _read_ahead(environ: Mapping[str, Any], sock: socket.socket) -> bytes:
    """Give what the server has read and not asked for: messages right behind the handshake."""
    stream = environ.get("wsgi.input")
    if _GUNICORN_SOCKET in environ:
        unreader = getattr(getattr(stream, "reader", None), "unreader", None)
        return unreader.buf.getvalue() if unreader is not None else b""
    if _EVENTLET_INPUT in environ:
        stream = environ[_EVENTLET_INPUT].rfile
    if not isinstance(stream, io.BufferedReader):
        return b""
    timeout = sock.gettimeout()
    # An empty buffer would be filled first, and wait for it.
    sock.settimeout(0)
    try:
        return stream.peek()
    finally:
        sock.settimeout(timeout)


def _release(environ: Mapping[str, Any], sock: socket.socket) -> None:
    _shut_down(sock)
    if _EVENTLET_INPUT in environ:
        eventlet_wsgi: Any = importlib.import_module("eventlet.wsgi")
        eventlet_wsgi.WSGI_LOCAL.already_handled = True


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _obstacle_elsewhere(environ: Mapping[str, Any], sock: socket.socket | None) -> str | None:
    if environ.get("wsgi.websocket") is not None:
        return _ANSWERED_ALREADY
    if sock is None:
        return _NO_SOCKET
    if hasattr(sock, "getpeercert"):
        return (
            "this server keeps the connection inside TLS; leave its certificate out and have a "
            "proxy in front of it, nginx for example, end TLS, or use flask uwsgi run --cert"
        )
    if _GUNICORN_SOCKET in environ and not _gunicorn_has_more(environ):
        return (
            "this worker of gunicorn's serves one request at a time, which one WebSocket would "
            "hold; start gunicorn with --threads 100 or with -k gevent"
        )
    if not (environ.get("wsgi.multithread") or environ.get("wsgi.multiprocess") or server_hub()):
        return "this server has one thread, which one WebSocket would hold; use flask run as it is"
    return None


def gunicorn_worker() -> Any:
    """Give the worker of gunicorn's that this process is; ``None`` where it is none."""
    # There is no other way to it than through its signal handlers, some of which the app may
    # have replaced.
    for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGQUIT, signal.SIGUSR1):
        worker = getattr(signal.getsignal(number), "__self__", None)
        if hasattr(worker, "alive") and hasattr(worker, "cfg"):
            return worker
    return None


def _gunicorn_has_more(environ: Mapping[str, Any]) -> bool:
    """Tell whether this worker serves others beside one request."""
    if not environ.get("wsgi.multithread"):
        return False
    worker = gunicorn_worker()
    # That with threads says that it has several when it has one.
    return worker is None or bool(server_hub()) or worker.cfg.threads > 1


def _status(answer: Answer) -> str:
    return f"{answer.status.value} {answer.status.phrase}"


def _native_can_say(uwsgi: ModuleType, environ: Mapping[str, Any], answer: Answer) -> bool:
    # Without SSL uWSGI can not hash the key; the function named here is built
    # in with SSL only. With no subprotocol chosen it would echo the client's
    # whole list, and it has no way to send other headers.
    return (
        hasattr(uwsgi, "i_am_the_lord")
        and (answer.subprotocol is not None or "HTTP_SEC_WEBSOCKET_PROTOCOL" not in environ)
        and answer.is_plain
        and answer.deflate is None
    )


def _router_lacks_websockets() -> bool:
    options = uwsgi_options()
    names = {name for name in options if is_on(options[name])}
    routers = {"http", "http-router", "https", "https2"} & names
    others = [name for name in names if name.endswith("socket")]
    websockets = {"http-websockets", "http-websocket"} & names
    return bool(routers) and not others and not websockets


def _has_https_socket() -> bool:
    return any(name.startswith(("https-socket", "ssl-socket")) for name in uwsgi_options())
