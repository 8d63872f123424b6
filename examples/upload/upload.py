"""Files come in pieces over a socket, and the page shows how much of them is on the disk.

    python examples/upload/upload.py

Then open http://localhost:5000/ (``PORT`` in the environment names another
port, ``UPLOADS`` the folder for the files, which is a new temporary one by
default).

The page sends JSON, ``begin`` with a file's name and size, ``cancel`` and
``ping``, and the file in binary messages. It gets ``ready``, ``written`` for
each piece, ``done`` with the SHA-256 of what is on the disk, ``refused``,
``cancelled`` and ``pong``. No more than a piece of a file is in memory.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from threading import Lock

from flask import Flask, render_template
from werkzeug.utils import secure_filename

from flask_uwsgi_ws import WebSocket

# Bytes.
PIECE = 64 * 1024
FILE_MOST = int(os.environ.get("FILE_MOST", 10**9))
FOLDER_MOST = int(os.environ.get("FOLDER_MOST", 4 * 10**9))

# In the environment, where the uWSGI that this program becomes finds it again.
if "UPLOADS" not in os.environ:
    os.environ["UPLOADS"] = tempfile.mkdtemp(prefix="uploads-")
FOLDER = Path(os.environ["UPLOADS"])
folder_lock = Lock()

app = Flask(__name__)
websocket = WebSocket(app, max_size=PIECE)


class Refused(Exception):
    """What the server does not take; the text is for the person who sent it."""


class Upload:
    """A file that is coming; it is removed again if not all of it comes."""

    def __init__(self, name, size):
        if size > FILE_MOST:
            raise Refused(f"The file is too large: {FILE_MOST:,} bytes at most.")
        # What a page calls a file is the end of its name only, and only what is safe of it.
        end = "-" + (secure_filename(name)[-100:] or "file")
        with folder_lock:
            if size + sum(path.stat().st_size for path in FOLDER.iterdir()) > FOLDER_MOST:
                raise Refused("The server has no room for the file.")
            number, self.path = tempfile.mkstemp(end, "", FOLDER)
            # Not to give the same room away twice.
            os.truncate(number, size)
        self.file = os.fdopen(number, "wb", buffering=0)
        self.hash = hashlib.sha256()
        self.left = size

    def write(self, piece):
        if len(piece) > self.left:
            raise Refused("More has come than the file was said to have.")
        self.hash.update(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[self.file.write(rest) :]
        self.left -= len(piece)

    def end(self):
        self.file.close()
        if self.left:
            with folder_lock:
                os.unlink(self.path)


@app.route("/")
def index():
    return render_template("upload.html", piece=PIECE, file_most=FILE_MOST)


@websocket.route("/upload")
def upload(ws):
    current = None
    try:
        for message in ws:
            try:
                current = take(ws, current, message)
            except (Refused, OSError) as error:
                text = f"Not written: {error}." if isinstance(error, OSError) else str(error)
                ws.send_json({"type": "refused", "text": text})
                if current:
                    current.end()
                current = None
    finally:
        if current:
            current.end()


def take(ws, current, message):
    """Do what a message asks for, and give the upload that goes on after it."""
    if isinstance(message, bytes):
        # Pieces that were on their way when their file was refused are nobody's.
        if current:
            current.write(message)
            ws.send_json({"type": "written", "bytes": len(message)})
    else:
        match read(message):
            case {"type": "begin", "name": str(name), "size": int(size)} if size >= 0:
                if current:
                    raise Refused("One file after the other.")
                current = Upload(name, size)
                ws.send_json({"type": "ready"})
            case {"type": "cancel"}:
                if current:
                    current.end()
                ws.send_json({"type": "cancelled"})
                return None
            case {"type": "ping"}:
                ws.send_json({"type": "pong"})
            case _:
                raise Refused("The server does not take this.")
    if current and not current.left:
        current.end()
        name = os.path.basename(current.path)
        ws.send_json({"type": "done", "name": name, "sha256": current.hash.hexdigest()})
        return None
    return current


def read(message):
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
