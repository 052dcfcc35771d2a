"""The figure of a study: every arm's difference from the reference, with its interval."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from autorank.report.style import BLUE, GREY, INK, legend, name_axes, panels
from autorank.studies.findings import ALL, Finding, told
from autorank.studies.study import Study

MOST_CHARACTERS = 96  # of a title


def arms_figure(study: Study, found: Sequence[Finding]) -> Figure:
    """Differences of the first measure in the mean over tables; an interval that holds 0 is grey.

    The title is the study's first contrast, if it has one.
    """
    lead = study.measures[0]
    arms = [f for f in found if f.measure == lead and f.table == ALL and not f.is_contrast]
    shown = [f for f in arms if f.arm != study.reference and not math.isnan(f.difference.mean)]
    words = study.MEASURES[lead].words
    contrasts = told(study, found)
    title = contrasts[0] if contrasts else f"{words} of {len(shown)} arms against {study.reference}"
    if len(title) > MOST_CHARACTERS:
        title = f"{title[: MOST_CHARACTERS - 3]}..."
    figure, (ax,) = panels(title, height=1.2 + 0.28 * max(len(shown), 2))
    for sign, name in ((1, "the interval leaves out 0"), (0, "no difference shown")):
        own = [(i, f.difference) for i, f in enumerate(shown) if abs(f.difference.sign) == sign]
        if own:
            places, differences = zip(*own, strict=True)
            means = [d.mean for d in differences]
            ends = [[d.mean - d.low for d in differences], [d.high - d.mean for d in differences]]
            ax.errorbar(
                means,
                places,
                xerr=None if any(math.isnan(d.low) for d in differences) else ends,
                fmt="o",
                markersize=4,
                color=BLUE if sign else GREY,
                label=name,
            )
    ax.axvline(0.0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(shown)), [f.arm for f in shown])
    ax.invert_yaxis()
    name_axes(ax, f"{words}, minus that of {study.reference} (95 % interval)", "")
    legend(ax, loc="best")
    return figure
