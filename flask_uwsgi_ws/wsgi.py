"""The app that ``flask`` finds, for uWSGI to load: factories, and ``FLASK_APP``."""

import os

from flask.cli import ScriptInfo

app = ScriptInfo(app_import_path=os.environ.get("FLASK_APP") or None).load_app()
