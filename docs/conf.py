"""Sphinx: ``uv run --group docs sphinx-build -W docs docs/_build/html``, as .ci/run builds it."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.ext.napoleon.docstring import GoogleDocstring

ROOT = Path(__file__).parents[1]
# Notebooks start in their own folder and find the package installed; the CLI page imports the app.
sys.path.insert(0, str(ROOT))

project = "loihi-convert"
author = "the loihi-convert authors"
copyright = author
release = version = installed("loihi-convert")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.typer",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"loihi-convert {release}"
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3

# Each build runs the notebooks from the first cell to the last; a cell that fails, fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
# Progress bars and logs go to stderr.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False


def _without_type(self: GoogleDocstring) -> tuple[str, list[str]]:
    return "", self._dedent(self._consume_to_end())


# Napoleon reads "The outputs: ..." of a property as its type; here types are annotations.
GoogleDocstring._consume_inline_attribute = _without_type
# In docstrings, `name` in single backticks is code of this package.
default_role = "code"

copybutton_exclude = ".linenos, .gp, .go, .c1"
