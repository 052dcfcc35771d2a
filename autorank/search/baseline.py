"""The baseline with several seeds: the reference of every gain, and the seed noise.

Labels are taken on *gain* curves (percent against the baseline's mean curve on the same rows), which removes what all
models share (own choice). With another measure than NE all of it is that measure's (`autorank.base.searched`).
"""

from typing import NamedTuple

import numpy as np

from autorank.base.measurable import of_metric
from autorank.base.searched import NE, gains, noise_of
from autorank.fidelity.curve_label import curve_label, curve_labels
from autorank.search.context import Context, SearchStopped
from autorank.search.evaluation import Batch, Proposals, curve_of, evaluate


class Baseline(NamedTuple):
    """The reference of every gain."""

    # Windows of the searched metric, lower is better, [seeds, t].
    curves: np.ndarray
    mean_curve: np.ndarray  # [t]
    flops: float
    # Standard deviation of the label over seeds, in the unit of gains: percent of its mean, or points.
    noise_percent: float
    # Bool [t]: windows in which the searched metric can be measured.
    where: np.ndarray
    # Share of the log at its end that a label averages.
    tail: float
    # Seeds of the curves; no trial of the search trains with one of them.
    seeds: tuple[int, ...] = ()
    # Of `searched.MEASURES`; decides what a gain is.
    measure: str = NE

    def gain_curve(self, curve: np.ndarray) -> np.ndarray:
        """The gains of a model's curve ``[t]`` against the mean curve."""
        return gains(self.measure, curve, self.mean_curve)

    def label(self, curve: np.ndarray) -> float:
        """The label of a model that has seen the whole log, from its curve ``[t]``."""
        return curve_label(self.gain_curve(curve), 1.0, tail=self.tail, where=self.where)

    def paired_gain(self, curve: np.ndarray, reference: np.ndarray) -> float:
        """Gain over the baseline's run of the same seed, on the last windows of both curves ``[t]``."""
        ours, theirs = (
            curve_label(c, 1.0, tail=self.tail, where=self.where) for c in (curve, reference)
        )
        return float(gains(self.measure, ours, theirs))


def measure_baseline(context: Context, tail: float) -> Baseline:
    """Trains the baseline on all data with several seeds.

    Trials train with the search's seed, so the baseline has the seeds after it. (Ledgers of earlier versions have
    others, which are kept.)

    Raises:
        SearchStopped: it fails with any of them.
    """
    budget, objective = context.budget, context.objective
    seeds = range(budget.seed + 1, budget.seed + 1 + budget.noise_seeds)
    configs = np.tile(np.array(context.space.baseline, np.int32), (budget.noise_seeds, 1))
    known = None
    if objective.measurable is not None:
        known = of_metric(objective.measurable, objective.metrics, budget.metric)

    def own_label(curve: np.ndarray) -> float:
        # A run that did not fail lacks only windows that cannot be measured.
        return curve_label(
            curve, 1.0, tail=tail, where=np.isfinite(curve) if known is None else known
        )

    batch = Batch("seed_noise", 0, lambda: Proposals(configs, seeds), own_label)
    trials = evaluate(context, batch)
    failed = [t for t in trials if t.status != "finished"]
    if failed:
        raise SearchStopped(
            f"the baseline itself failed with seed {failed[0].seed}: {failed[0].reason}. Choose other baseline "
            f"settings (a smaller training.dense_rate or training.table_rate first)"
        )
    curves = np.array([curve_of(context, t) for t in trials])
    where = np.asarray(np.isfinite(curves).any(axis=0) if known is None else known)
    levels = curve_labels(curves, 1.0, tail=tail, where=where)
    noise = noise_of(budget.measure, levels)
    assert trials[0].outcome is not None
    context.ledger.record("seed_noise", "baseline", {"ne": levels.tolist(), "noise_percent": noise})
    return Baseline(
        curves,
        curves.mean(axis=0),
        flops=float(trials[0].outcome["flops"]),
        noise_percent=noise,
        where=where,
        tail=tail,
        seeds=tuple(t.seed for t in trials),
        measure=budget.measure,
    )
