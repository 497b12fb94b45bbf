"""Configuration of the documentation site: `make docs` builds it, with every warning an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import datasentinel

if TYPE_CHECKING:
    import click
    from sphinx.application import Sphinx

project = "DataSentinel"
author = "The DataSentinel authors"
release = datasentinel.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path: list[str] = []
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 3
smartquotes = False  # Two hyphens begin an option.
default_role = "code"  # A name in single backticks.
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # The docstrings state the types, with shapes.
napoleon_google_docstring = False
napoleon_use_rtype = False
copybutton_prompt_text = "$ "

html_theme = "pydata_sphinx_theme"
html_title = "DataSentinel"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "show_toc_level": 1}
html_sidebars = {"index": [], "tutorial": []}

# The files at the root of the repository that have a page of their own on the site.
_PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code_of_conduct.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "examples/README.md": "project/examples.md",
}
_LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)]*)?\)")
_DOCS = Path(__file__).parent


def _on_the_site(text: str, folder: Path) -> str:
    """Point the links of a text that lies in `folder` to the pages of the site, from its root."""

    def moved(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        anchor = link[2] or ""
        if target.is_relative_to(_DOCS):
            return f"](/{target.relative_to(_DOCS)}{anchor})"
        name = str(target.relative_to(_DOCS.parent))
        return f"](/{_PAGES[name]}{anchor})" if name in _PAGES else f"](/../{name})"

    return _LINK.sub(moved, text)


def _read_page(app: Sphinx, name: str, content: list[str]) -> None:  # noqa: ARG001
    content[0] = _on_the_site(content[0], (_DOCS / name).parent)


def _read_included(app: Sphinx, path: Path, name: str, content: list[str]) -> None:  # noqa: ARG001
    content[0] = _on_the_site(content[0], (_DOCS / path).resolve().parent)


def _escape_patterns(app: Sphinx, context: click.Context, lines: list[str]) -> None:  # noqa: ARG001
    # Help texts are plain text, in which asterisks and underscores stand for themselves.
    lines[:] = [re.sub(r"\*|_(?!\w)", r"\\\g<0>", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Have links rewritten as the sources are read, and help texts taken as they are."""
    for part in ("description", "options", "arguments", "epilog"):
        app.connect(f"sphinx-click-process-{part}", _escape_patterns)
    app.connect("source-read", _read_page)
    app.connect("include-read", _read_included)
