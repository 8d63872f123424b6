"""The users: their passwords, which of their sessions are good, and what their windows show."""

import json
import secrets
from collections import deque
from threading import Lock

from flask_login import UserMixin
from werkzeug.security import check_password_hash, generate_password_hash

from flask_uwsgi_ws import ConnectionClosed

NOTE_MOST = 500
NOTES_MOST = 50
# A close code of the app's own, after which the page does not come again by itself.
LOGGED_OUT = 3000, "You have been logged out"


class User(UserMixin):
    """Somebody with a password, and with notes that all their windows show."""

    def __init__(self, name, password):
        self.name = name
        self.password_hash = generate_password_hash(password)
        self.token = secrets.token_hex()
        self.notes = deque(maxlen=NOTES_MOST)
        self.sockets = set()
        self.lock = Lock()

    def has_password(self, password):
        return check_password_hash(self.password_hash, password)

    def get_id(self):
        # What a session keeps: with another token, all sessions from before are over.
        return self.token

    def enter(self, ws, token):
        with self.lock:
            if token == self.token:
                self.sockets.add(ws)
                self._tell()
            else:
                # They have logged out since the handshake.
                ws.begin_close(*LOGGED_OUT)

    def leave(self, ws):
        with self.lock:
            self.sockets.discard(ws)
            self._tell()

    def note(self, text):
        with self.lock:
            self.notes.append(text[:NOTE_MOST])
            self._tell()

    def log_out(self):
        with self.lock:
            self.token = secrets.token_hex()
            for ws in self.sockets:
                ws.begin_close(*LOGGED_OUT)

    def tell(self):
        with self.lock:
            self._tell()

    def _tell(self):
        state = {"name": self.name, "windows": len(self.sockets), "notes": list(self.notes)}
        for ws in self.sockets:
            try:
                ws.send_nb(json.dumps(state))
            except BlockingIOError:
                # Nobody waits for a slow reader, whose page comes again and gets all there is.
                ws.begin_close(1013, "too slow")
            except ConnectionClosed:
                pass
