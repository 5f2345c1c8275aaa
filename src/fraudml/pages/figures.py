"""Drawing for a page that is read in light and in dark mode: inline SVG whose colours are CSS variables.

Matplotlib draws with stand-in colours; in the SVG text each is replaced by a variable of the page's style sheet.
Families differ in line style and marker too, so that no meaning hangs on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, PAPER = "#010101", "#020202", "#030303"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
GENUINE, FRAUD = SERIES[0], SERIES[1]
LINES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")

_VARIABLES = {INK: "--ink", GRID: "--grid", PAPER: "--paper"} | {c: f"--series-{i}" for i, c in enumerate(SERIES, 1)}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: small, sharp, selectable
    "svg.hashsalt": "fraudml",  # same figures, same bytes
}


class Drawing:
    """A figure being drawn; ``svg`` is its text once the block of :func:`drawing` has ended."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def drawing(name: str, title: str, *, width: float = 6.4, height: float = 3.8) -> Iterator[Drawing]:
    """Draw one figure; ``name`` is unique on the page, ``title`` is what a screen reader says; sizes in inches."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine()
        figure = Figure(figsize=(width, height), layout=layout, facecolor="none")
        drawn = Drawing(figure)
        yield drawn
        for axes in figure.axes:
            axes.set_facecolor("none")
        # Laid out here: while there is a layout, saving draws all of it twice.
        FigureCanvasSVG(figure)  # texts are measured as SVG has them
        layout.execute(figure)
        figure.set_layout_engine(None)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        drawn.svg = _inline(buffer.getvalue(), name, title)


def legend(figure: Figure, axes: Axes) -> None:
    """What the lines are, above the axes, where it hides none of them."""
    lines, labels = axes.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper left", ncols=2 if len(labels) > 3 else 3, labelcolor=INK)


def _inline(svg: str, name: str, title: str) -> str:
    """The ``svg`` element alone, sized by the page, with variables for colours and ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"(<svg\b[^>]*?)>", rf'\1 role="img" aria-label="{title}">', svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
