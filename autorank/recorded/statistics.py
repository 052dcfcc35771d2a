"""What a recorded table says about its seed noise, its order and its cost.

The final NE of a run is the mean window NE of the last quarter of the pass. Statistics of configurations are those of
the random ones alone (numbers from 1 on), by their first seed; those of seeds are of the random ones with more.
"""

import itertools
import math
from typing import Any

import jax
import numpy as np
from scipy.special import gammaincinv

from autorank.base.metrics import Interval, bootstrap_interval, finite_or_none, kendall_tau_b
from autorank.fidelity.agreement import bootstrap_tau, interval
from autorank.fidelity.curve_label import curve_labels
from autorank.recorded.pool import Pool
from autorank.recorded.table import RecordedTable

TAIL = 0.25
FRACTIONS = (0.05, 0.1, 0.25, 0.5)
NUM_BOOTSTRAP = 1000
NUM_PROPOSALS = 200  # random ones that `distance_statistics` asks for


def final_ne(table: RecordedTable, metric: int = 0, fraction: float = 1.0) -> np.ndarray:
    """Mean window NE of the last quarter of the windows up to a fraction, ``[n]``; NaN where not reached."""
    where = table.measurable[:, metric]
    curves = table.curves[:, :, metric].astype(np.float64)
    found = curve_labels(curves, fraction, tail=TAIL, where=where)
    return np.where(table.lost, np.nan, found) if fraction == 1.0 else found


def statistics(table: RecordedTable) -> dict[str, Any]:
    """The numbers of a table, of its first metric; null for what it cannot tell."""
    number, repeat = table.columns["number"], table.columns["repeat"]
    final = final_ne(table)
    first = (number > 0) & (repeat == 0)
    alive = final[first & np.isfinite(final)]
    bayes = (table.about.get("bayes_ne") or {}).get(table.metrics[0])
    baseline = final[(number == 0) & np.isfinite(final)]
    found: dict[str, Any] = {
        "metric": table.metrics[0],
        "windows": table.about["num_windows"],
        "rows_of_a_pass": table.about["num_rows"],
        "configurations": int(first.sum()),
        "runs": len(final),
        "failed_configurations": int(table.lost[first].sum()),
        "share_failed": _ratio(table.lost[first].sum(), first.sum()),
        "best_ne": _number(alive.min() if len(alive) else math.nan),
        "median_ne": _number(np.median(alive) if len(alive) else math.nan),
        "baseline_ne": _number(baseline.mean() if len(baseline) else math.nan),
        "bayes_ne": bayes,
    }
    found |= seed_statistics(repeated(final, number, repeat))
    found["tau_of_a_part_with_the_whole"] = {
        str(f): _number(_tau(final_ne(table, fraction=f)[first], final[first])) for f in FRACTIONS
    }
    return found | distance_statistics(table, first) | cost_statistics(table)


def repeated(final: np.ndarray, number: np.ndarray, repeat: np.ndarray) -> np.ndarray:
    """Final NE ``[m, s]`` of the random configurations that have the most seeds and failed with none."""
    most = int(repeat[number > 0].max(initial=0)) + 1
    rows = [final[number == i] for i in np.unique(number[(number > 0) & (repeat == most - 1)])]
    whole = [row for row in rows if len(row) == most and np.isfinite(row).all()]
    return np.array(whole, np.float64).reshape(-1, most)


def seed_statistics(runs: np.ndarray) -> dict[str, Any]:
    """Noise and order of seeds, from final NE ``[m, s]``; intervals of 95 % by bootstrap over configurations."""
    few = runs.shape[0] < 2 or runs.shape[1] < 2
    unknown = Interval(math.nan, math.nan, math.nan)
    noise, median = (
        unknown if few else bootstrap_interval(runs, sd, num_bootstrap=NUM_BOOTSTRAP)
        for sd in (pooled_sd, median_sd)
    )
    level = float(runs.mean()) if runs.size else math.nan
    better = runs[np.argsort(runs.mean(axis=1))[: max(2, len(runs) // 4)]] if not few else runs
    return {
        "seeds_each": runs.shape[1],
        "configurations_with_seeds": runs.shape[0],
        "seed_noise": _interval(noise),
        "seed_noise_percent": _number(100 * noise.value / level),
        "seed_noise_median": _interval(median),
        "seed_noise_of_the_best_quarter": _number(math.nan if few else pooled_sd(better)),
        "tau_of_two_seeds": _interval(unknown if few else seed_tau(runs)),
    }


def pooled_sd(runs: np.ndarray) -> float:
    """Standard deviation between seeds, pooled over configurations: the root of the mean variance of ``[m, s]``."""
    return float(np.sqrt(runs.var(axis=1, ddof=1).mean()))


def median_sd(runs: np.ndarray) -> float:
    """The same of the median configuration: one whose runs almost diverge decides the pooled one alone.

    The root of the median variance of ``[m, s]``, over that of the chi-squared distribution with ``s - 1`` degrees of
    freedom: the standard deviation itself where noise is normal and alike for all.
    """
    half = (runs.shape[1] - 1) / 2
    return float(np.sqrt(np.median(runs.var(axis=1, ddof=1)) * half / gammaincinv(half, 0.5)))


def seed_tau(runs: np.ndarray) -> Interval:
    """Tau-b between two seeds, mean over all pairs of seeds of ``[m, s]``, and its interval."""
    values, replicates = [], []
    for a, b in itertools.combinations(range(runs.shape[1]), 2):
        # One seed of the resamples: every pair sees the same ones.
        tau, drawn = bootstrap_tau(runs[:, a][None], runs[:, b], NUM_BOOTSTRAP, seed=0)
        values.append(tau[0])
        replicates.append(drawn[0])
    return Interval(float(np.mean(values)), *interval(np.mean(replicates, axis=0), 0.95))


def distance_statistics(table: RecordedTable, first: np.ndarray) -> dict[str, float | None]:
    """How far the nearest recorded configuration is from a random proposal, in decisions, by `Pool.distances`.

    Args:
        table: the table.
        first: bool ``[n]``, runs whose configurations make the pool.
    """
    space = table.space
    asked = np.asarray(space.sample(jax.random.key(0), NUM_PROPOSALS))
    active = np.asarray(space.active(asked)).sum(axis=1)
    pool = Pool(space, table.configs[first])
    far = np.array([pool.distances(space.decode(config)) for config in asked])
    known = far.size > 0
    return {
        "decisions_of_a_proposal": _number(active.mean()),
        "distance_to_the_nearest": _number(far.min(axis=1).mean() if known else math.nan),
        "distance_of_two": _number(far.mean() if known else math.nan),
    }


def cost_statistics(table: RecordedTable) -> dict[str, Any]:
    """Seconds and rows; a session lasts from its start to its last run."""
    session, at = table.columns["session"], table.columns["at"].astype(np.float64)
    wall = sum(float(at[session == s].max()) for s in np.unique(session))
    rows = int(table.columns["rows"].sum())
    return {
        "seconds": round(wall, 1),
        "training_seconds": round(float(table.columns["seconds"].sum()), 1),
        "compile_seconds": round(float(table.columns["compile_seconds"].sum()), 1),
        "model_rows": rows,
        "model_rows_per_second": _number(rows / wall if wall > 0 else math.nan),
        "devices": sorted({s["device"] for s in table.about["sessions"]}),
    }


def described(found: dict[str, Any]) -> str:
    """The statistics as lines of text."""
    parts = found["tau_of_a_part_with_the_whole"].items()
    lines = (
        f"{found['configurations']} configurations, {found['runs']} runs of {found['rows_of_a_pass']:,} rows, "
        f"{found['windows']} windows, metric {found['metric']}",
        f"failed: {found['failed_configurations']} configurations, share {_text(found['share_failed'], 4)}",
        f"final NE: best {_text(found['best_ne'])}, median {_text(found['median_ne'])}, "
        f"baseline {_text(found['baseline_ne'])}, best possible {_text(found['bayes_ne'])}",
        f"seed noise: {_bounds(found['seed_noise'], 6)} ({_text(found['seed_noise_percent'], 3)} %), of the median "
        f"configuration {_bounds(found['seed_noise_median'], 6)}, of the best quarter "
        f"{_text(found['seed_noise_of_the_best_quarter'], 6)}; "
        f"{found['configurations_with_seeds']} configurations with {found['seeds_each']} seeds each",
        f"tau-b between two seeds: {_bounds(found['tau_of_two_seeds'], 3)}",
        "tau-b of a part of the pass with the whole: "
        + ", ".join(f"{_text(tau, 3)} at {fraction}" for fraction, tau in parts),
        f"a random proposal of {_text(found['decisions_of_a_proposal'], 1)} decisions: the nearest recorded one is "
        f"{_text(found['distance_to_the_nearest'], 1)} of them away, any {_text(found['distance_of_two'], 1)}",
        f"{found['seconds']:,.1f} s ({found['training_seconds']:,.1f} s of training and "
        f"{found['compile_seconds']:,.1f} s of compiling, side by side), "
        f"{_text(found['model_rows_per_second'], 0)} model-rows/s, {'; '.join(found['devices'])}",
    )
    return "\n".join(lines)


def _tau(part: np.ndarray, whole: np.ndarray) -> float:
    both = np.isfinite(part) & np.isfinite(whole)
    return kendall_tau_b(part[both], whole[both])


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _number(value: Any) -> float | None:
    """Six digits; None for NaN."""
    return finite_or_none(float(f"{value:.6g}"))


def _interval(found: Interval) -> dict[str, float | None]:
    return {name: _number(value) for name, value in found._asdict().items()}


def _text(value: float | None, digits: int = 5) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _bounds(found: dict[str, float | None], digits: int) -> str:
    value, low, high = (_text(found[name], digits) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
