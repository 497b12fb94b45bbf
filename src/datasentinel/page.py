"""HTML pages of tables and plots, one file each, with style and images inside. Plots need matplotlib."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.atomic_file import overwriting
from datasentinel.errors import InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2330; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 2rem .5rem 0; }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #dde3ea; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
.plots img { width: 100%; } .plots .wide { grid-column: 1 / -1; }
.tables { display: flex; flex-wrap: wrap; align-items: flex-start; }
"""
_DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its title, and the PNG file."""

    title: str
    png: bytes
    wide: bool = False

    def html(self) -> str:
        """Return the image with its data inside."""
        data = base64.b64encode(self.png).decode()
        kind = ' class="wide"' if self.wide else ""
        return f'<img{kind} alt="{html.escape(self.title)}" src="data:image/png;base64,{data}">'


def plot(title: str, draw: Callable[[Axes], None], *, wide: bool = False) -> Plot:
    """Draw a plot; a wide one takes the width of two.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'the report needs matplotlib: pip install "datasentinel[train]"'
        ) from error
    # A figure of its own, without pyplot: no global state, no display.
    figure = Figure(figsize=(12.2, 4) if wide else (6, 4), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title(title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DOTS_PER_INCH)
    return Plot(title, image.getvalue(), wide)


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), align: bool = True) -> str:
    """Return a table; with `align`, cells that are numbers are aligned to the right."""
    cell = _cell if align else _plain_cell
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def section(title: str, *parts: str | Plot) -> str:
    """Return a heading with tables and texts, which are HTML, and plots."""
    tables = "".join(part for part in parts if isinstance(part, str))
    plots = "".join(part.html() for part in parts if isinstance(part, Plot))
    return (
        f"<h2>{html.escape(title)}</h2>"
        + (f'<div class="tables">{tables}</div>' if tables else "")
        + (f'<div class="plots">{plots}</div>' if plots else "")
    )


def text(words: str) -> str:
    """Return a paragraph."""
    return f"<p>{html.escape(words)}</p>"


def write_page(path: str | os.PathLike[str], title: str, *sections: str) -> None:
    """Write a page.

    Raises
    ------
    InvalidInputError
        The file cannot be written.
    """
    document = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{''.join(sections)}</body></html>\n"
    )
    write_file(path, document.encode("utf-8", "backslashreplace"))


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file of a report; raises InvalidInputError if that cannot be."""
    try:
        with overwriting(Path(path)) as file:
            file.write(content)
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _cell(value: str) -> str:
    try:
        float(value)
    except ValueError:
        return _plain_cell(value)
    return f'<td class="number">{html.escape(value)}</td>'


def _plain_cell(value: str) -> str:
    return f"<td>{html.escape(value)}</td>"
