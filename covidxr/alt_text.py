"""A description of every figure for those who cannot see it, from what is written on it.

A notebook stores it beside the picture, where nbconvert finds it; the book takes it from there.
"""

import sys
from collections import Counter

from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

MARK = "synthetic phantom"  # written by plots.mark_synthetic


def describe(figure: Figure) -> str:
    """Its title, then a sentence or two on every panel; pictures are counted by their title."""
    pictures = [ax for ax in figure.axes if ax.images]
    names = Counter(_title(ax) or "untitled" for ax in pictures)
    shown = ", ".join(name if n == 1 else f"{n} × {name}" for name, n in names.items())
    sentences = [figure.get_suptitle(), f"Pictures: {shown}" if shown else ""]
    for ax in figure.axes:
        if ax not in pictures and ax.get_label() != "<colorbar>":
            sentences += _panel(ax)
    texts = [figure.get_supxlabel(), *(text.get_text() for ax in figure.axes for text in ax.texts)]
    sentences.append("Synthetic phantom" if MARK in texts else "")
    lines = [" ".join(sentence.split()) for sentence in sentences]
    return ". ".join(line for line in lines if line) + "."


def _title(ax: Axes) -> str:
    return " ".join(filter(None, (ax.get_title(loc) for loc in ("left", "center", "right"))))


def _panel(ax: Axes) -> list[str]:
    """Sentences on one panel: title, axes, rows or cells, and the entries of the legend."""
    sentences = [_title(ax), " against ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    if any(isinstance(drawn, QuadMesh) for drawn in ax.collections):
        columns = ", ".join(label.get_text() for label in ax.get_xticklabels())
        cells = ", ".join(text.get_text() for text in ax.texts if text.get_text() != MARK)
        return [*sentences, f"Rows {', '.join(rows)}; columns {columns}; cells {cells}"]
    if any(row and not row.lstrip("−-").replace(".", "").isdecimal() for row in rows):
        if not any("$" in row for row in rows):  # of a logarithmic axis
            sentences.append("Rows: " + "; ".join(rows))
    if ax.get_legend() is not None:
        entries = [text.get_text() for text in ax.get_legend().get_texts()]
        sentences.append("Series: " + "; ".join(entries))
    return sentences


def register() -> None:
    """Let IPython store the description with every figure that it shows; elsewhere do nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        bundle = shell.display_formatter.mimebundle_formatter
        bundle.for_type(Figure, lambda figure: ({}, {"image/png": {"alt": describe(figure)}}))
