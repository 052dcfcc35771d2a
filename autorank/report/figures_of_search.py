"""Figures about how the search went: fidelity, predictor, policy, decisions, progress."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from autorank.base.metrics import kendall_tau_b
from autorank.ledger.run_folder import Run, full_rows, of_stage, searched, told, values_of
from autorank.ledger.trial import Trial
from autorank.report.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    RED,
    label,
    legend,
    panels,
    robust_limits,
    rows_text,
)

MAX_DECISIONS = 16  # bars that can be read


def fidelity(run: Run) -> Figure | None:
    """Rank agreement of a shortened run with the whole one, against the share of the log."""
    record = run.records["fidelity"][-1] if run.records["fidelity"] else {}
    if not record.get("fractions") or not any(t is not None for t in record.get("tau", [])):
        return None
    chosen, tau = float(record.get("chosen_fraction") or 1.0), record.get("chosen_tau")
    agreement = "" if tau is None else f" (Kendall's tau-b {tau:.2f} with the final order)"
    figure, (ax,) = panels(f"Trials see {chosen:.0%} of the log{agreement}")
    x = np.array(record["fractions"], float)
    low, high = np.array(record["low"], float), np.array(record["high"], float)
    ax.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95% interval")
    left_out = record.get("chosen_low") is not None
    own = "tau-b of the pilots that chose the trend" if left_out else "tau-b"
    ax.plot(x, np.array(record["tau"], float), color=BLUE, marker="o", markersize=4, label=own)
    if left_out and tau is not None:
        ends = [[tau - record["chosen_low"]], [record["chosen_high"] - tau]]
        ax.errorbar([chosen], [tau], yerr=ends, fmt="D", color=INK, markersize=5, capsize=3,
                    label="tau-b of pilots left out")  # fmt: skip
    plain = record.get("tau_without_trend")
    if plain and plain != record["tau"]:
        ax.plot(x, np.array(plain, float), color=ORANGE, linestyle="--", marker="s",
                markersize=3.5, label="without the trend")  # fmt: skip
    ax.axvline(chosen, color=INK, linewidth=1.0, linestyle=":", label="chosen")
    ax.set_ylim(min(0.0, float(np.nanmin(low, initial=0.0))) - 0.03, 1.03)
    ax.set_xlim(0.0, 1.03)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    pilots = record.get("num_finished", "the")
    label(ax, "share of the log trained on", f"order kept, tau-b over {pilots} pilots")
    legend(ax, loc="lower right")
    return figure


def guessed(run: Run) -> list[Trial]:
    """Labelled trials that the predictor had an opinion on."""
    return [t for t in told(run) if t.predicted and t.predicted[0] is not None]


def predicted(run: Run) -> Figure | None:
    """Predicted against true gain of the proposals, and their rank agreement round by round."""
    trials = guessed(run)
    if len(trials) < 3:
        return None
    pairs = np.array([(t.predicted[0], t.quality) for t in trials if t.predicted], float)
    tau = kendall_tau_b(pairs[:, 0], pairs[:, 1])
    said = "tells good from bad" if tau >= 0.5 else "gives a hint" if tau >= 0.2 else "says little"
    figure, (left, right) = panels(
        f"The predictor {said}: tau-b {tau:.2f} over its {len(trials)} proposals", 2
    )
    rounds = sorted({t.round for t in trials})
    colour = shades(rounds)
    for r in rounds:
        part = [(t.predicted[0], t.quality) for t in trials if t.round == r and t.predicted]
        left.scatter(*zip(*part, strict=True), s=20, color=colour(r), alpha=0.8, linewidths=0)
    left.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle=":")
    left.set_xlim(robust_limits(pairs[:, 0].tolist()))
    left.set_ylim(robust_limits(pairs[:, 1].tolist()))
    label(left, "predicted NE gain (%), before training", "NE gain (%) after training")
    taus = []
    for r in rounds:
        part = np.array(
            [(t.predicted[0], t.quality) for t in trials if t.round == r and t.predicted]
        )
        taus.append(kendall_tau_b(part[:, 0], part[:, 1]) if len(part) > 2 else math.nan)
    right.bar(rounds, taus, color=[colour(r) for r in rounds], width=0.7)
    right.axhline(0.0, color=INK, linewidth=0.8)
    right.set_ylim(-1.03, 1.03)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    label(right, "round", "tau-b within the round's proposals")
    return figure


def shades(rounds: list[int]) -> Callable[[int], Any]:
    """Early rounds dark, late rounds light, readable without colours."""
    low, high = min(rounds), max(rounds)
    return lambda r: colormaps["cividis"](0.88 * (r - low) / max(1, high - low))


def policy(run: Run) -> Figure | None:
    """Entropy and mean reward of the policy along its steps, one line a round."""
    records = [r for r in run.records["policy"] if series(r.get("entropy")).size]
    if not records:
        return None
    last = series(records[-1].get("entropy"))[-1]
    figure, axes = panels(f"The policy ends its last round at {last:.0%} of uniform entropy", 2)
    colour = shades([r["round"] for r in records])
    for ax, name in zip(axes, ("entropy", "reward"), strict=True):
        single = []
        for record in records:
            values = series(record.get(name))
            if values.size > 1:
                steps = record.get("step") or range(len(values))
                ax.plot(list(steps)[: len(values)], values, color=colour(record["round"]),
                        linewidth=1.3, label=f"round {record['round']}")  # fmt: skip
            elif values.size:
                single.append((record["round"], values[0]))
        if single:
            ax.plot(*zip(*single, strict=True), color=BLUE, marker="o", markersize=3.5)
        if not ax.lines:
            ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color=GREY)
        label(ax, "round" if single else "REINFORCE step", "")
    axes[0].set_ylim(-0.03, 1.05)
    axes[0].set_ylabel("entropy (1 = uniform)")
    axes[1].set_ylabel("mean reward of the samples (predictor's scale)")
    if len(records) <= 12:
        legend(axes[0], ncols=2)
    return figure


def series(values: Any) -> np.ndarray:
    """Mean over all axes but the last, finite points only; a number is a series of one."""
    array = np.array([] if values is None else values, float)
    if array.ndim > 1:
        array = array.reshape(-1, array.shape[-1])
        array = array[np.isfinite(array).all(axis=1)]
        array = array.mean(axis=0) if len(array) else np.zeros(0)
    array = np.atleast_1d(array)
    return array[np.isfinite(array)]


def importance(run: Run) -> Figure | None:
    """How much of the ranking of trials each decision explains on its own."""
    trials = told(run)
    if not run.decisions or len(trials) < 8:
        return None
    names = [d["name"] for d in run.decisions]
    values = [values_of(run.decisions, t.config) for t in trials]
    ranks = ranked(np.array([t.quality for t in trials], float))
    groups = [np.array([repr(v.get(name, "(inactive)")) for v in values]) for name in names]
    shares = np.array([explained(g, ranks[None])[0] for g in groups])
    levels = chance(groups, ranks)
    order = sorted(range(len(names)), key=lambda i: shares[i] - levels[i])[-MAX_DECISIONS:]
    clear = [names[i] for i in reversed(order) if shares[i] > levels[i]]
    title = f"{clear[0]} decides most" if clear else "No decision alone explains the ranking"
    figure, (ax,) = panels(title, height=1.5 + 0.24 * len(order))
    for height, i in enumerate(order):
        ax.barh(height, shares[i], color=BLUE if shares[i] > levels[i] else PALE, height=0.7)
        ax.plot([levels[i]] * 2, [height - 0.4, height + 0.4], color=RED, linewidth=1.6)
    ax.plot([], [], color=RED, linewidth=1.6, label="shuffled labels pass a mark in 5% of cases")
    ax.set_yticks(range(len(order)), [names[i] for i in order], fontsize=8)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    label(ax, f"share of the variance of ranks explained alone, {len(trials)} trials", "")
    legend(ax, loc="lower right")
    return figure


def ranked(values: np.ndarray) -> np.ndarray:
    """Ranks with ties averaged: one diverged trial must not decide."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def explained(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Eta squared of each row of ``values [s, n]``: variance between groups over all variance.

    On ranks, ``(n - 1)`` times it is the statistic of Kruskal and Wallis.
    """
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    centred = values - values.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    sums = centred @ np.eye(len(counts))[inverse]
    return (sums**2 / counts).sum(axis=1) / np.where(total > 0, total, 1.0)


def chance(groups: list[np.ndarray], ranks: np.ndarray, num_shuffles: int = 1000) -> np.ndarray:
    """Share for each decision such that shuffled labels exceed any of them in 5% of cases.

    One level for all decisions together: with twenty of them one would always look important.
    """
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(ranks, (num_shuffles, 1)), axis=1)
    null = np.array([explained(g, shuffled) for g in groups])
    places = np.argsort(np.argsort(null, axis=1, kind="stable"), axis=1)
    place = int(np.quantile(places.max(axis=0), 0.95, method="higher"))
    return np.sort(null, axis=1)[:, place]


def progress(run: Run) -> Figure | None:
    """Best label so far against trials and against rows trained on."""
    trials = searched(run)
    done = [t for t in trials if t.status != "proposed"]
    if not any(t.quality is not None for t in done):
        return None
    labels = np.array([math.nan if t.quality is None else t.quality for t in done])
    best = np.minimum.accumulate(np.where(np.isnan(labels), np.inf, labels))
    best[np.isinf(best)] = np.nan
    pilots = len([t for t in of_stage(run, "pilot") if t.status != "proposed"])
    later = labels[pilots:]
    found = np.nanargmin(labels) + 1
    title = f"The best trial was number {found} of {len(done)}"
    if pilots and np.isfinite(later).any() and np.isfinite(labels[:pilots]).any():
        gain = float(np.nanmin(labels[:pilots]) - np.nanmin(later))
        verb = (
            f"beat the pilots' best by {gain:.2f}" if gain > 0 else "did not beat the pilots' best"
        )
        title += f"; the rounds {verb}"
    figure, axes = panels(title, 2)
    rows = np.cumsum([t.fidelity for t in done]) * full_rows(run)
    low, high = robust_limits([*labels[np.isfinite(labels)]], [0.0])
    for ax, x in zip(axes, (np.arange(1, len(done) + 1), rows), strict=True):
        failed, shown = np.array([t.status == "failed" for t in done]), np.isfinite(labels)
        ax.scatter(x[shown], np.minimum(labels[shown], high), s=14, c=GREY, alpha=0.7,
                   linewidths=0, label="trials")  # fmt: skip
        if failed.any():
            ax.scatter(x[failed], np.full(failed.sum(), high), marker="x", c=RED, s=26,
                       clip_on=False, label="failed")  # fmt: skip
        ax.step(x, best, where="post", color=BLUE, linewidth=1.8, label="best so far")
        if 0 < pilots < len(done):
            ax.axvline((x[pilots - 1] + x[pilots]) / 2, color=INK, linewidth=0.8, linestyle=":")
            ax.annotate("pilots | rounds", ((x[pilots - 1] + x[pilots]) / 2, 0.97), fontsize=7.5,
                        xycoords=("data", "axes fraction"), ha="center", va="top",
                        bbox={"fc": "white", "ec": "none", "pad": 0.5})  # fmt: skip
        ax.axhline(0.0, color=PALE, linewidth=0.8)
        ax.set_ylim(low, high)
    label(axes[0], "trials", "NE gain, label (%, lower is better)")
    label(axes[1], "rows trained on by the trials", "")
    axes[1].xaxis.set_major_formatter(FuncFormatter(rows_text))
    legend(axes[0], loc="upper right", bbox_to_anchor=(1.0, 0.92))
    return figure
