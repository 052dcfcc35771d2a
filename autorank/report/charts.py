"""All figures of a run in reading order, with their captions; figures without data are left out."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from matplotlib.figure import Figure

from autorank.ledger.run_folder import Run
from autorank.report.figures import (
    curves,
    fidelity,
    front,
    importance,
    policy,
    predictions,
    progress,
    reliability,
    seed_noise,
    survival,
)
from autorank.report.style import png_bytes, settle, svg_text


@runtime_checkable
class Drawing(Protocol):
    """Draws one figure of a run."""

    def __call__(self, run: Run) -> Figure | None:
        """The figure; None if the run lacks its data."""
        ...


class Chart(NamedTuple):
    """One figure and its caption."""

    draw: Drawing
    caption: str


CHARTS = {
    "survival": Chart(
        survival.survival,
        "A label is one run with the search's own seed, chosen as the best of many. The choosing seeds are fresh, but "
        "they picked the best of the finalists. The fresh seeds took part in no choice. The band is what seed noise "
        "alone gives the luckiest of as many copies of the baseline: on average (dark), and in one search of twenty "
        "(light).",
    ),
    "front": Chart(
        front.front,
        "Labels of trials are measured at the chosen share of the log with the search's seed. Finalists are trained on "
        "all training rows with fresh seeds and drawn at the validation gain by which they were chosen.",
    ),
    "curves": Chart(
        curves.curves,
        "Each window is scored before the model learns from it. Thin lines are single seeds.",
    ),
    "seed_noise": Chart(
        seed_noise.seed_noise,
        "Each dot is one seed; gains are paired with the baseline's run of the same seed.",
    ),
    "reliability": Chart(
        reliability.reliability,
        "Held-out rows of the first seed in bins of as many rows each, by rising prediction. A bin without a positive "
        "is left out. Above the dotted line a model predicts too little.",
    ),
    "progress": Chart(
        progress.progress,
        "These are labels, not test results: the lowest of many noisy labels is too good on average. Labels above the "
        "axis are drawn on its edge.",
    ),
    "importance": Chart(
        importance.importance,
        "One decision at a time, over trials that a search selected. Interactions do not show, and a decision that the "
        "search stopped varying looks unimportant. This is a hint, not an ablation.",
    ),
    "fidelity": Chart(
        fidelity.fidelity,
        "Kendall's tau-b between the pilots' order at a share of the log and at its end, with bootstrap intervals over "
        "pilots. The pilots that chose share and trend overstate the agreement, so the claimed value is measured on "
        "pilots held out of the choice (cross-validation). Shares that include windows of the final label are "
        "left out.",
    ),
    "predicted": Chart(
        predictions.predictions,
        "Proposals were selected for a low prediction, so regression to the mean is expected, and tau-b within one "
        "round covers a narrow range. Dark: early rounds.",
    ),
    "policy": Chart(
        policy.policy,
        "Means over the policies of a round. An entropy near 0 from the first steps is a collapse. Dark: early rounds.",
    ),
}


def draw(run: Run) -> dict[str, Figure]:
    """The figures for which the run has data, by name, in reading order."""
    drawn = {name: chart.draw(run) for name, chart in CHARTS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save(figures: dict[str, Figure], folder: Path) -> dict[str, str]:
    """Writes ``<name>.svg`` and ``<name>.png`` into the folder; returns the SVG texts by name."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    for name, figure in figures.items():
        settle(figure)
        texts[name] = svg_text(figure, name)
        (folder / f"{name}.svg").write_text(texts[name])
        (folder / f"{name}.png").write_bytes(png_bytes(figure))
    return texts
