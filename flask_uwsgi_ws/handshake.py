"""RFC 6455 section 4: what to answer an opening handshake.

The checking and the negotiation are those of the ``websockets`` package; this
file asks it in the words of a WSGI environ, and makes of its answer the HTTP
response that a client of a Flask app should get. It does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, InvalidOrigin
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol
from werkzeug.datastructures import Headers as ResponseHeaders
from werkzeug.wrappers import Response

from .compression import Deflate, deflate_factory
from .settings import Settings

# All but the tab, which RFC 9110 section 5.5 allows.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HEADERS = (
    "Connection",
    "Upgrade",
    "Origin",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
)


@dataclass(frozen=True)
class Answer:
    """An HTTP response to an opening handshake.

    :param status: 101 to accept; another to refuse.
    :param headers: all the headers of the response.
    :param body: what is wrong, for people; empty when accepted.
    :param subprotocol: the chosen one (:rfc:`6455` section 1.9).
    :param deflate: the compression agreed on (:rfc:`7692`).
    :param log: a line for the server's log, for what its operator can mend.
    :param is_plain: whether no header is there but those of the protocol.
    """

    status: HTTPStatus
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    subprotocol: str | None = None
    deflate: Deflate | None = None
    log: str | None = None
    is_plain: bool = True

    @property
    def accepted(self) -> bool:
        """Whether the connection is a WebSocket from here on."""
        return self.status == HTTPStatus.SWITCHING_PROTOCOLS


class Handshake:
    """An opening handshake that is about to be accepted, for functions of ``before_handshake``.

    :param response: what collects the headers and cookies that go with the 101.
    :param environ: the WSGI environ.
    :param subprotocol: the one that the options chose.
    """

    def __init__(
        self, response: Response, environ: Mapping[str, Any], subprotocol: str | None
    ) -> None:
        self.response = response
        #: Headers that are sent with the 101.
        self.headers: ResponseHeaders = response.headers
        self.headers.clear()
        #: Adds a cookie to the 101, as :meth:`flask.Response.set_cookie` does.
        self.set_cookie = response.set_cookie
        #: Removes a cookie, as :meth:`flask.Response.delete_cookie` does.
        self.delete_cookie = response.delete_cookie
        offered = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
        #: The subprotocols that the client offers, the preferred first (:rfc:`6455` section 1.9).
        self.subprotocols: tuple[str, ...] = tuple(parse_subprotocol(offered)) if offered else ()
        self._subprotocol = subprotocol

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that is agreed on: one that the client offers, or ``None``.

        :raises ValueError: when it is set to another.
        """
        return self._subprotocol

    @subprotocol.setter
    def subprotocol(self, name: str | None) -> None:
        if name is not None and name not in self.subprotocols:
            raise ValueError(
                f"the client does not speak the subprotocol {name!r}; choose one of "
                f"handshake.subprotocols, {list(self.subprotocols)}, or None"
            )
        self._subprotocol = name

    def check(self) -> None:
        """See that the headers that have been added are the app's to set, and can be sent.

        :raises ValueError: if they are not.
        """
        size = 0
        for name, value in self.headers:
            if name.lower().startswith("sec-websocket-") or name.lower() in _PROTOCOLS:
                raise ValueError(
                    f"the header {name} is the protocol's; for the subprotocol there is "
                    "handshake.subprotocol"
                )
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a header")
            try:
                size += len(name) + len(value.encode("latin-1")) + 4
            except UnicodeEncodeError:
                raise ValueError(
                    f"the header {name} has characters that no header can have; quote them, with "
                    "urllib.parse.quote for example"
                ) from None
        if size > _MOST_HEADERS:
            raise ValueError(
                f"the headers of the 101 are {size} bytes long, and {_MOST_HEADERS} go into it; "
                "send the rest as a message"
            )

    def settle(self, answer: Answer) -> Answer:
        """Give *answer*, an accepting one, with what was changed here."""
        added = [each for each in self.headers if each[0].lower() not in _MEANINGLESS]
        replaced = {name.lower() for name, _ in added} | {_SUBPROTOCOL.lower()}
        headers = [each for each in answer.headers if each[0].lower() not in replaced]
        if self._subprotocol is not None:
            headers.append((_SUBPROTOCOL, self._subprotocol))
        return replace(
            answer, headers=headers + added, subprotocol=self._subprotocol, is_plain=not added
        )


_SUBPROTOCOL = "Sec-WebSocket-Protocol"
# Headers that make a response the answer to an opening handshake.
_PROTOCOLS = ("connection", "upgrade", "transfer-encoding")
# There is no content, and no cache to tell what it depends on.
_MEANINGLESS = ("vary", "content-type", "content-length")
# RFC 9110 section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Bytes; uWSGI has room for 64 KiB, and clients for less.
_MOST_HEADERS = 32768


def is_handshake(environ: Mapping[str, Any]) -> bool:
    """Tell whether a request wants a WebSocket, be it rightly put or not.

    A proxy that does not pass the Upgrade header on leaves the others, so that
    any of them counts: such a request gets a word on what is wrong.

    :param environ: the WSGI environ.
    """
    return (
        "HTTP_SEC_WEBSOCKET_KEY" in environ
        or "HTTP_SEC_WEBSOCKET_VERSION" in environ
        or "websocket" in environ.get("HTTP_UPGRADE", "").lower()
    )


def negotiate(environ: Mapping[str, Any], settings: Settings) -> Answer:
    """Check an opening handshake, :rfc:`6455` section 4.2, and answer it.

    :param environ: the WSGI environ.
    :param settings: origins, subprotocols and compression.
    """
    method = environ["REQUEST_METHOD"]
    if method != "GET":
        return refusal(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"a WebSocket is opened with GET, not {method}",
            [("Allow", "GET")],
        )
    if (
        environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
        and "HTTP_UPGRADE" in environ
        # eventlet says so of all requests.
        and "eventlet.input" not in environ
    ):
        return refusal(
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
            "a WebSocket needs HTTP/1.1; behind nginx, set proxy_http_version 1.1",
        )
    headers = Headers()
    for name in _HEADERS:
        value = environ.get("HTTP_" + name.upper().replace("-", "_"))
        if value is None:
            continue
        if _CONTROLS.search(value):
            return refusal(HTTPStatus.BAD_REQUEST, f"the {name} header is broken")
        headers[name] = value
    factory = deflate_factory(settings.compression)
    protocol = ServerProtocol(
        origins=allowed_origins(environ, settings),  # type: ignore[arg-type]
        extensions=None if factory is None else [factory],
        subprotocols=settings.subprotocols,  # type: ignore[arg-type]
        select_subprotocol=_select_subprotocol,  # type: ignore[arg-type]
    )
    response = protocol.accept(Request(environ.get("PATH_INFO", "/"), headers))
    status = HTTPStatus(response.status_code)
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        agreed = [one for one in protocol.extensions if isinstance(one, PerMessageDeflate)]
        return Answer(
            status,
            list(response.headers.raw_items()),
            subprotocol=protocol.subprotocol,
            deflate=Deflate(agreed[0]) if agreed else None,
        )
    error = protocol.handshake_exc
    if status == HTTPStatus.UPGRADE_REQUIRED:
        return refusal(
            status,
            f"{error}; a proxy in front must pass the Upgrade and Connection headers on",
            _UPGRADE,
        )
    if isinstance(error, InvalidHeader) and error.name == "Sec-WebSocket-Version":
        return refusal(HTTPStatus.UPGRADE_REQUIRED, f"{error}; 13 is spoken here", _UPGRADE)
    if isinstance(error, InvalidOrigin):
        host = environ.get("HTTP_HOST", "")
        return refusal(
            status,
            f"pages of {error.value} may not connect to {host}",
            log=f"WebSocket handshake refused: origin {error.value!r} is not host {host!r}; "
            "to let it in, add it to UWSGI_WEBSOCKET_ORIGINS",
        )
    return refusal(status, str(error))


_UPGRADE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
]


def refusal(
    status: HTTPStatus,
    fault: str,
    headers: Sequence[tuple[str, str]] = (),
    log: str | None = None,
) -> Answer:
    """Make an answer that says no.

    :param status: the HTTP status.
    :param fault: what is wrong and what to do.
    :param headers: headers besides those of the body.
    :param log: a line for the server's log.
    """
    body = f"WebSocket handshake refused: {fault}.\n".encode()
    return Answer(
        status,
        [
            *headers,
            ("Connection", "close"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
        ],
        body,
        log=log,
    )


def allowed_origins(
    environ: Mapping[str, Any], settings: Settings
) -> list[str | re.Pattern[str] | None] | None:
    """List the origins to let in (:rfc:`6455` section 10.2), as ``websockets`` takes them.

    A request without an Origin header does not come from a browser's page and
    is let in.

    :param environ: the WSGI environ.
    :param settings: their ``origins`` count.
    :returns: ``None`` to let all in.
    """
    if settings.origins == "*":
        return None
    if settings.origins is None:
        host = environ.get("HTTP_HOST", "").lower()
        origins: list[str | re.Pattern[str] | None] = [None]
        # A browser leaves the port out where it is the scheme's own; the
        # scheme is not compared, since TLS often ends at a proxy.
        for scheme, port in (("http", ":80"), ("https", ":443")):
            origins.append(f"{scheme}://{host.removesuffix(port)}")
        return origins
    return [None, *(_pattern(origin) for origin in settings.origins)]


def _pattern(origin: str | re.Pattern[str]) -> str | re.Pattern[str]:
    if isinstance(origin, str) and "*" in origin:
        return re.compile(re.escape(origin).replace(r"\*", "[^/:]*"))
    return origin


def _select_subprotocol(protocol: ServerProtocol, offered: Sequence[str]) -> str | None:
    # Where there is none in common the connection opens without one and the
    # client decides (section 4.2.2, step 5).
    for subprotocol in protocol.available_subprotocols or ():
        if subprotocol in offered:
            return subprotocol
    return None
