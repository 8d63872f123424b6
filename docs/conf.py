"""How Sphinx builds the documentation; nothing in the pages comes from the network."""

from __future__ import annotations

import flask_uwsgi_ws

project = "Flask-uWSGI-WS"
author = copyright = "The Flask-uWSGI-WS developers"
version = release = flask_uwsgi_ws.__version__

extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
highlight_language = "none"

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
