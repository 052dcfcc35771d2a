"""The look of all figures: sizes, a palette for colour-blind readers, light axes, telling titles, reproducible SVG."""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Of Okabe and Ito's palette: distinct for colour-blind readers and in greyscale.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9")
INK, GREY, PALE = "#222222", "#8a8a8a", "#cccccc"
GAIN = "NE gain against baseline (%, lower is better)"
SETTINGS: Any = {
    "svg.hashsalt": "autorank",
    "svg.fonttype": "path",  # glyphs as paths: independent of the reader's fonts
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.unicode_minus": True,
}


def panels(title: str, count: int = 1, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """A figure whose title states its message, with ``count`` panels side by side."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold", color=INK)
        axes = list(np.atleast_1d(figure.subplots(1, count)))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#e8e8e8", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(colors=INK, labelsize=8.5)
    return figure, axes


def name_axes(ax: Axes, x: str, y: str) -> None:
    """Names the axes, with their units."""
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)


def legend(ax: Axes, **options: object) -> None:
    """A legend without a frame, if there is anything to name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**({"framealpha": 0.85, "edgecolor": "none", "fontsize": 8} | options))


def ratios(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis in multiples of the baseline's FLOPs: 0.5x, 1x, 2x."""
    low, high = min([1.0, *values]), max([1.0, *values])
    steps = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    ticks = [s for s in steps if low / 1.6 <= s <= high * 1.6]
    ticks = ticks if len(ticks) <= 9 else [t for t in ticks if math.log10(t) % 1 == 0]
    ax.set_xscale("log")
    ax.set_xlim(low / 1.35, high * 1.35)
    ax.minorticks_off()
    ax.set_xticks(ticks, [f"{t:g}x" for t in ticks])


def shades(rounds: Sequence[int]) -> Callable[[int], Any]:
    """A colour for each round: early ones dark, late ones light, distinct in greyscale."""
    low, high = min(rounds), max(rounds)
    return lambda r: colormaps["cividis"](0.88 * (r - low) / max(1, high - low))


def robust_limits(values: Sequence[float], keep: Sequence[float] = ()) -> tuple[float, float]:
    """Axis limits that show the bulk of the values and all of ``keep``, whatever a diverged trial gave."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if not finite.size:
        finite = np.zeros(1)
    low, middle, high = np.quantile(finite, [0.0, 0.5, 0.8])
    top = min(finite.max(), high + 1.5 * (high - middle))
    low, top = min([low, *keep]), max([top, *keep])
    margin = 0.08 * (top - low) or 0.1
    return float(low - margin), float(top + margin)


def rows_text(value: float | int, _: object = None) -> str:
    """A number of rows in short.

    Examples:
        >>> rows_text(1_500_000), rows_text(999)
        ('1.5M', '999')
    """
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}"


def settle(figure: Figure) -> None:
    """Lays the figure out once; otherwise each file that is written of it would do so, at twice the cost of drawing."""
    with matplotlib.rc_context(SETTINGS):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def svg_text(figure: Figure, name: str) -> str:
    """The figure as one ``<svg>`` element. The same figure gives the same text; its ids start with ``name``."""
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Several figures share one page, in which ids must be unique.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    return text.replace("url(#", f"url(#{name}-").strip() + "\n"


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
