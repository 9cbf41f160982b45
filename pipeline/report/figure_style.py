"""How every figure looks, and how it becomes a PNG file or SVG inside a page that is light or dark."""

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each colour stands for a role. In the page it is replaced by a variable, whose value the style sheet chooses.
TEXT, MUTED, BOUNDARY, GRID, SURFACE = "#1c2127", "#5a6470", "#a3acb6", "#d5dae0", "#fefefe"
# Told apart by the colour-blind too, and against white with 3 : 1 or more; so are line styles and markers.
SERIES = ("#0068a8", "#c24a00", "#00785a", "#9c3d92", "#6e5c00", "#3f3b9e")
LINES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
VARIABLES = {
    TEXT: "--ink",
    MUTED: "--muted",
    BOUNDARY: "--boundary",
    GRID: "--grid",
    SURFACE: "--surface",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES)},
}
WIDTH = 7.6  # inches
PNG_DPI = 160
SETTINGS: Any = {  # matplotlib's type would name every key
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9.5,
    "text.color": TEXT,
    "text.parse_math": False,  # a dollar in a run's name is a dollar
    "axes.edgecolor": MUTED,
    "axes.facecolor": SURFACE,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "figure.facecolor": SURFACE,
    "savefig.facecolor": SURFACE,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "tacit",  # equal figures are equal files
}


@dataclass(frozen=True, slots=True)
class Look:
    """How the lines of one run are drawn; no two of the first six look alike in grey."""

    colour: str
    line: Any
    marker: str


def look(i: int) -> Look:
    """Return how run ``i`` is drawn."""
    # Behind the sixth the line styles shift against the colours, so that 36 runs differ.
    return Look(SERIES[i % 6], LINES[(i + i // 6) % 6], MARKERS[(i + i // 6) % 6])


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in our style, whatever a user's matplotlibrc says, and leave matplotlib as it was."""
    import matplotlib
    from matplotlib import rc_context

    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page shows names in its own fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def panels(height: float, ratios: Sequence[float] = (1,)) -> "tuple[Figure, list[Axes]]":
    """Return a figure with panels above each other that share the horizontal axis.

    Args:
        height: Of the whole, in inches.
        ratios: Relative height of each panel.
    """
    from matplotlib.figure import Figure  # without pyplot: no windows, nothing global

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(ratios)})
    axes[-1, 0].xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    return figure, list(axes[:, 0])


def save_png(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.incomplete")
    with drawing():
        figure.savefig(beside, format="png", dpi=PNG_DPI)
    beside.replace(path)


def to_svg(figure: "Figure", name: str, alternative: str) -> str:
    """Return a figure as an ``svg`` element for a page: without metadata, ids its own, colours as variables.

    Args:
        figure: The figure.
        name: Goes before every id, for no id may stand twice in a page.
        alternative: What the figure shows, in words.
    """
    buffer = io.StringIO()
    with drawing():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    shape = re.search(r'viewBox="[^"]*"', svg)
    assert shape is not None
    # The size is the page's matter.
    head = f'<svg {shape[0]} role="img" aria-label="{html.escape(alternative)}">'
    return re.sub(r"\n\s*", "\n", head + svg[svg.index(">") + 1 :]).strip()
