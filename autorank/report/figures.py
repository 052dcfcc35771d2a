"""All figures of a run, drawn and saved; a figure without data is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from autorank.ledger.run_folder import Run
from autorank.report import figures_of_models, figures_of_search, figures_of_verdict
from autorank.report.style import png_bytes, svg_text


class Chart(NamedTuple):
    """One figure and what to say below it."""

    draw: Callable[[Run], Figure | None]
    caption: str


CHARTS = {
    "survival": Chart(
        figures_of_verdict.survival,
        "A label is one run with the search's own seed, picked as the best of many; the choosing seeds are fresh, but "
        "picked the best of the finalists; the fresh seeds took part in no choice. The band is what seed noise alone "
        "gives the luckiest of as many copies of the baseline, on average (dark) and in one search of twenty (light).",
    ),
    "front": Chart(
        figures_of_models.front,
        "Labels of trials are taken at the chosen share of the log with the searched seed; "
        "finalists are trained on all training rows with fresh seeds and drawn at the validation gain that chose them.",
    ),
    "curves": Chart(
        figures_of_models.curves,
        "Each window is scored before it is learned from. Thin lines are single seeds.",
    ),
    "seed_noise": Chart(
        figures_of_models.seed_noise,
        "Each dot is one seed; gains are paired with the baseline's run of the same seed.",
    ),
    "progress": Chart(
        figures_of_search.progress,
        "Labels, not test results: the lowest of many noisy labels is too good on average. "
        "Labels above the axis are drawn on its edge.",
    ),
    "importance": Chart(
        figures_of_search.importance,
        "One decision at a time, over trials that a search picked: interactions do not show, and "
        "what the search stopped varying looks unimportant. A hint, not an ablation.",
    ),
    "fidelity": Chart(
        figures_of_search.fidelity,
        "Kendall's tau-b between the pilots' order at a share of the log and at its end; "
        "intervals by bootstrap over pilots. The pilots that chose share and trend promise too "
        "much, so what is claimed is measured on pilots left out of the choice (cross-validation). "
        "Shares that see windows of the final label are left out.",
    ),
    "predicted": Chart(
        figures_of_search.predicted,
        "Proposals were picked for a low prediction, so regression to the mean is expected, and "
        "tau-b within one round covers a narrow range. Dark: early rounds.",
    ),
    "policy": Chart(
        figures_of_search.policy,
        "Means over the policies of a round. Entropy near 0 from the first steps is a collapse. "
        "Dark: early rounds.",
    ),
}


def draw(run: Run) -> dict[str, Figure]:
    """The figures that the run has data for, by name, in reading order."""
    drawn = {name: chart.draw(run) for name, chart in CHARTS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save(figures: dict[str, Figure], folder: Path) -> dict[str, str]:
    """Writes ``<name>.svg`` and ``<name>.png`` into the folder; gives the SVG texts by name."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    for name, figure in figures.items():
        texts[name] = svg_text(figure, name)
        (folder / f"{name}.svg").write_text(texts[name])
        (folder / f"{name}.png").write_bytes(png_bytes(figure))
    return texts
