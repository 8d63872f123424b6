"""An echo over uWSGI's own WebSocket functions, to compare with."""

import uwsgi


def app(environ, _start_response):
    uwsgi.websocket_handshake(environ["HTTP_SEC_WEBSOCKET_KEY"], environ.get("HTTP_ORIGIN", ""))
    while True:
        try:
            message = uwsgi.websocket_recv()
        except OSError:
            return []
        uwsgi.websocket_send(message)
