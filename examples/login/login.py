"""Notes behind a login: a socket that knows its user, and opens for nobody else.

    python examples/login/login.py

Then open http://localhost:5000/ (``PORT`` in the environment names another
port) and log in as ``ada`` with the password ``lovelace``, or as ``grace`` with
``hopper``. The users live in the memory of its process, see ``users.py``, so run
one worker process, as ``app.run`` does.

A page sends notes as text, and an empty one as a ping. It gets what there is to
show in JSON, whenever that changes.
"""

import os
import secrets

from flask import (
    Blueprint,
    Flask,
    abort,
    flash,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_login import (
    LoginManager,
    current_user,
    login_required,
    login_user,
    logout_user,
)
from users import NOTE_MOST, User

from flask_uwsgi_ws import WebSocket

app = Flask(__name__)
app.config.update(SECRET_KEY=secrets.token_hex(), SESSION_COOKIE_SAMESITE="Lax")
websocket = WebSocket(app, max_size=4 * NOTE_MOST)
login_manager = LoginManager(app)
members = Blueprint("members", __name__)
users = {"ada": User("Ada", "lovelace"), "grace": User("Grace", "hopper")}


@login_manager.user_loader
def load_user(token):
    return next((user for user in users.values() if user.token == token), None)


@login_manager.unauthorized_handler
def unauthorized():
    # No browser follows a redirect from a socket, so its handshake is refused.
    return abort(401) if request.url_rule.websocket else redirect(url_for("log_in"))


@app.route("/login", methods=["GET", "POST"])
def log_in():
    if request.method == "POST":
        user = users.get(request.form["name"].strip().lower())
        if user and user.has_password(request.form["password"]):
            login_user(user)
            return redirect(url_for("members.index"))
        flash("There is nobody with that name and password.")
    return render_template("login.html")


@members.before_request
@login_required
def members_only():
    """Lets nobody else to the pages and sockets of this blueprint."""


@members.route("/")
def index():
    return render_template("notes.html", note_most=NOTE_MOST)


@members.post("/logout")
def log_out():
    current_user.log_out()
    logout_user()
    return redirect(url_for("log_in"))


@websocket.route("/notes", blueprint=members)
def notes(ws):
    user = current_user._get_current_object()
    user.enter(ws, session["_user_id"])
    try:
        for message in ws:
            if isinstance(message, str) and message.strip():
                user.note(message.strip())
            else:
                user.tell()
    finally:
        user.leave(ws)


app.register_blueprint(members)

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
