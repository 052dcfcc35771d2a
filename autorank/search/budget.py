"""The numbers of a search: what each stage may spend, and what decides."""

from typing import NamedTuple

from autorank.base.searched import NE


class Budget(NamedTuple):
    """Lengths of the stages, seed, metric and margins; the defaults are those of the settings of the same names."""

    # Pilots and rounds together.
    trials: int
    seed: int
    # The task: one of the objective's metrics, or "mean".
    metric: str
    num_pilots: int
    # Proposals in a round.
    batch_size: int
    # Repeats of the baseline that measure the seed noise.
    noise_seeds: int
    # Seeds of the verdict; "auto" adds seeds until the intervals are narrow.
    final_seeds: int | str
    finalists: int
    # The search stops when a larger share of its trials fails.
    max_diverged: float
    # Fresh seeds that choose among the finalists.
    choice_seeds: int = 3
    # What is measured of the task's scores: one of `searched.MEASURES`.
    measure: str = NE
    # With "auto": half width of the 95% interval, percent, and the most seeds.
    final_half_width: float = 0.1
    max_final_seeds: int = 20
    # FLOPs ratio to the baseline up to which a model counts as "at equal cost".
    equal_cost: float = 1.05
    # Percent NE by which a model "at equal NE" may be worse.
    equal_ne_margin: float = 0.1
    # Share of decisions that a pilot near the baseline changes.
    pilot_mutation: float = 0.15
    # Whether the held-out test scores every finalist.
    test_finalists: bool = True
    # No trial costs more FLOPs than this times the baseline; None is without a cap.
    max_flops_ratio: float | None = None
