"""Makes the packages of the virtual environment known to Debian's Python, which is not its own."""

import os
import site

for folder in os.environ["VENV_PACKAGES"].split(os.pathsep):
    site.addsitedir(folder)
