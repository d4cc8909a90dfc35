"""How Sphinx builds the documentation: `./run docs`. What can be read from the code is written from it, each time."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference_pages  # noqa: E402

import statestore  # noqa: E402
from statestore.operations.base import Declared  # noqa: E402

project = "statestore"
author = "statestore contributors"
copyright = "statestore contributors"
version = release = statestore.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["sql/*"]
html_theme = "furo"
html_title = f"statestore {release}"
html_theme_options = {"source_view_link": ""}
html_show_sphinx = False
html_copy_source = False
# Nothing is fetched by a reader's browser, and nothing by the build.
html_static_path: list[str] = []

myst_heading_anchors = 3
# Files of the checkout that are not pages, such as CONTRIBUTING.md, are given by name where a page refers to them.
suppress_warnings = ["myst.strikethrough"]

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "inherited-members": True,
    "exclude-members": "add_note, with_traceback, args",
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def _as_functions() -> None:
    """Operations are descriptors, which say nothing of their parameters to autodoc; their methods do."""
    for name in statestore.__all__:
        found = getattr(statestore, name)
        if isinstance(found, type):
            for owner in found.__mro__:
                for key, member in list(vars(owner).items()):
                    if isinstance(member, Declared):
                        setattr(owner, key, member.method)


def _said(app: object, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Docstrings are written for readers of the code: here they become what autodoc and napoleon expect."""
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(": ", " - ")  # Napoleon takes what is before a colon for a type.
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
        followed_by_code = lines[number + 1 : number + 2] == [""] and lines[number + 2 : number + 3] > ["    "]
        if line.endswith(":") and followed_by_code and lines[number + 2].startswith("    "):
            lines[number] += ":"


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", _said, priority=100)


_as_functions()
reference_pages.write(HERE / "reference")
