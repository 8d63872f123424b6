"""What the client's methods raise."""

from __future__ import annotations


class ConnectionClosed(Exception):
    """The connection has ended. A handler that lets it through ends quietly.

    :param code: the close code, :rfc:`6455` section 7.1.5; 1006 if the
        connection was lost without a Close frame.
    :param reason: the close reason, section 7.1.6.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the connection has ended: {code} {reason}".rstrip())
        #: The close code.
        self.code = code
        #: The close reason; empty if none was given.
        self.reason = reason
