"""The verdict's own runs: the chosen models and the baseline with seeds that took part in no choice.

With ``search.final_seeds=auto`` seeds are added until the intervals are narrow. Which seeds are added follows from
the ledger's rows alone, so that a resumed search adds the same. A chosen model that fails with a fresh seed is
replaced by the next best.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from autorank.ledger.trial import Trial
from autorank.search.baseline import Baseline
from autorank.search.context import Context, SearchStopped
from autorank.search.evaluation import Batch, Proposals, curve_of, evaluate
from autorank.search.finals import Finals, Roles, choose_roles
from autorank.search.verdict import not_worse, seeds_to_add, upper_bound

STAGE = "confirmation"
LEVEL = 0.95  # of all intervals and bounds

Config = tuple[int, ...]


class EqualNE(NamedTuple):
    """One test of being as good as the baseline."""

    finalist: int
    # Of the validation gain over the final seeds, percent.
    mean: float
    # The true gain is below it with 95% confidence.
    bound: float
    passed: bool


class Confirmed(NamedTuple):
    """The chosen models with fresh seeds."""

    # ``equal_ne`` only if the model was shown to be as good.
    roles: Roles
    # Those with which the baseline finished.
    seeds: tuple[int, ...]
    # By finalist, [seeds]: percent, validation.
    gains: dict[int, np.ndarray]
    # Why finalists failed with one of the seeds after they had been chosen.
    failed: dict[int, str]
    # In the order of the tests.
    equal_ne: list[EqualNE]


class FreshRuns:
    """Runs on all data by configuration and seed, trained batch by batch as they are asked for."""

    def __init__(self, context: Context, baseline: Baseline) -> None:
        self._context, self._baseline = context, baseline
        self._reference: Config = tuple(context.space.baseline)
        self._done: dict[tuple[Config, int], Trial] = {}
        self._batches = 0

    def train(self, configs: Iterable[Config], seeds: Sequence[int]) -> bool:
        """Trains the baseline and ``configs`` with the seeds that they lack; False if none lacks any."""
        asked = [(c, s) for c in (self._reference, *configs) for s in seeds]
        missing = [run for run in asked if run not in self._done]
        if not missing:
            return False
        proposals = Proposals(np.array([c for c, _ in missing], np.int32), [s for _, s in missing])
        baseline = self._baseline
        batch = Batch(
            STAGE, self._batches, lambda: proposals, baseline.label, reference_flops=baseline.flops
        )
        for trial in evaluate(self._context, batch):
            self._done[trial.config, trial.seed] = trial
        self._batches += 1
        return True

    def failure(self, config: Config, seeds: Sequence[int]) -> str:
        """The reason of the configuration's first failure; empty without one."""
        runs = (self._done[config, s] for s in seeds)
        return next((t.reason for t in runs if t.status == "failed"), "")

    def usable(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """The seeds with which the baseline finished.

        Raises:
            SearchStopped: there are none.
        """
        kept = tuple(s for s in seeds if self._done[self._reference, s].status == "finished")
        if not kept:
            raise SearchStopped(
                f"the baseline failed with every seed of {seeds[0]} to {seeds[-1]}: "
                f"{self._done[self._reference, seeds[0]].reason}. Choose another baseline (a smaller "
                f"training.dense_rate or training.table_rate first)"
            )
        return kept

    def gains(self, config: Config, seeds: Sequence[int]) -> np.ndarray:
        """Percent on validation windows against the baseline's run of the same seed, ``[seeds]``."""
        return np.array(
            [
                self._baseline.paired_gain(
                    curve_of(self._context, self._done[config, s]),
                    curve_of(self._context, self._done[self._reference, s]),
                )
                for s in seeds
            ]
        )


def confirm(context: Context, finals: Finals, baseline: Baseline) -> Confirmed:
    """Trains what `finals.choose_roles` picks, and the baseline, with seeds that nothing else was trained with.

    Raises:
        SearchStopped: the baseline fails with all of them.
    """
    budget, runs = context.budget, FreshRuns(context, baseline)
    seeds = first_seeds(context)
    configs = [tuple(c) for c in finals.configs]
    failed: dict[int, str] = {}
    while True:
        roles = choose_roles(finals, budget.equal_cost, failed)
        chosen = sorted({i for i in roles if i is not None})
        if runs.train([configs[i] for i in chosen], seeds):
            failed |= {i: reason for i in chosen if (reason := runs.failure(configs[i], seeds))}
            continue
        kept = runs.usable(seeds)
        gains = {i: runs.gains(configs[i], kept) for i in chosen}
        more = seeds_wanted(context, list(gains.values()), len(seeds))
        if not more:
            break
        seeds = range(seeds.start, seeds.stop + more)
    tests = equal_ne_tests(finals, gains, budget.equal_ne_margin)
    as_good = [t.finalist for t in tests if t.passed]
    cheapest = min(as_good, key=lambda i: finals.costs[i], default=None)
    found = Confirmed(roles._replace(equal_ne=cheapest), kept, gains, failed, tests)
    record(context, finals, found)
    return found


def first_seeds(context: Context) -> range:
    """Seeds above all that any other stage used, as many as the verdict begins with."""
    budget = context.budget
    before = [t.seed for t in context.ledger.trials() if t.stage != STAGE]
    first = 1 + max((budget.seed, *before))
    if budget.final_seeds == "auto":
        return range(first, first + min(max(2, budget.noise_seeds), budget.max_final_seeds))
    return range(first, first + int(budget.final_seeds))


def seeds_wanted(context: Context, gains: Sequence[np.ndarray], count: int) -> int:
    """How many seeds to add to ``count``; 0 if the intervals are narrow enough or seeds are not added."""
    budget = context.budget
    if budget.final_seeds != "auto":
        return 0
    more = seeds_to_add(gains, budget.final_half_width, budget.max_final_seeds)
    return max(0, min(more, budget.max_final_seeds - count))


def equal_ne_tests(finals: Finals, gains: Mapping[int, np.ndarray], margin: float) -> list[EqualNE]:
    """Tests of the chosen models that are cheaper than the baseline, the one with the best chance first.

    That order comes from the choice's own seeds, not from ``gains``, as `verdict.not_worse` asks.
    """
    order = sorted(
        (i for i in gains if finals.costs[i] < 0), key=lambda i: (finals.gains[i].mean(), i)
    )
    passed = not_worse([gains[i] for i in order], margin, LEVEL)
    return [
        EqualNE(i, float(np.mean(gains[i])), upper_bound(gains[i], LEVEL), ok)
        for i, ok in zip(order, passed, strict=True)
    ]


def nearest_miss(tests: Sequence[EqualNE]) -> EqualNE | None:
    """The test that failed first if no model passed; None if one did or none is cheaper than the baseline."""
    return None if not tests or tests[0].passed else tests[0]


def record(context: Context, finals: Finals, found: Confirmed) -> None:
    """Records the verdict's numbers, for the report of a run without its summary."""
    configs = {i: finals.configs[i] for i in found.gains}
    context.ledger.record(
        STAGE,
        "validation",
        {
            "configs": list(configs.values()),
            "seeds": found.seeds,
            "gain": [found.gains[i].tolist() for i in configs],
            "costs": [float(finals.costs[i]) for i in configs],
            "trial_seed": context.budget.seed,
            "choice_seeds": finals.seeds,
            "equal_ne_margin": context.budget.equal_ne_margin,
            "equal_ne": [t._asdict() for t in found.equal_ne],
        },
    )
