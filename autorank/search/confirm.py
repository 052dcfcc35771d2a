"""The verdict's own runs: the chosen models and the baseline with seeds that took part in no choice.

With ``search.final_seeds=auto`` seeds are added until the intervals are narrow; what is wanted follows from the
ledger's rows alone, so that a resumed search adds the same. A chosen model that fails with a fresh seed is replaced
by the next best.
"""

import math
from typing import NamedTuple

import numpy as np

from autorank.base.metrics import ne_gain_percent
from autorank.fidelity.curve_label import curve_label
from autorank.ledger.ledger import Ledger, Trial
from autorank.search.finals import Finals, Roles, choose_roles
from autorank.search.stages import Baseline, Context, SearchStopped, curve_of, evaluate
from autorank.search.verdict import not_worse, seeds_to_add, upper_bound

STAGE = "confirmation"
LEVEL = 0.95  # of all intervals and bounds


class EqualNE(NamedTuple):
    """One test of being as good as the baseline."""

    finalist: int
    mean: float  # validation gain over the final seeds, percent
    bound: float  # the true gain is below it with 95% confidence
    passed: bool


class Confirmed(NamedTuple):
    """The chosen models with fresh seeds."""

    roles: Roles  # ``equal_ne`` only if it was shown to be as good
    seeds: tuple[int, ...]  # those that the baseline finished with
    gains: dict[int, np.ndarray]  # by finalist [seeds], percent, validation
    failed: dict[int, str]  # finalists that were chosen and failed with one of them, and why
    equal_ne: list[EqualNE]  # in the order of the tests


def confirm(context: Context, finals: Finals, baseline: Baseline, tail: float) -> Confirmed:
    """Trains what `finals.choose_roles` picks, and the baseline, with seeds that nothing else was trained with.

    Raises:
        SearchStopped: the baseline fails with all of them.
    """
    plan, reference = context.plan, tuple(context.space.baseline)
    before = [t.seed for t in context.ledger.trials() if t.stage != STAGE]
    first = 1 + max((plan.seed, *before))
    auto = plan.final_seeds == "auto"
    count = min(max(2, plan.noise_seeds), plan.max_final_seeds) if auto else int(plan.final_seeds)
    done: dict[tuple[tuple[int, ...], int], Trial] = {}
    failed: dict[int, str] = {}
    round_index = 0
    while True:
        roles = choose_roles(finals, plan.equal_cost, failed)
        chosen = sorted({i for i in roles if i is not None})
        seeds = range(first, first + count)
        configs = [reference, *(tuple(finals.configs[i]) for i in chosen)]
        missing = [(c, s) for c in configs for s in seeds if (c, s) not in done]
        if missing:
            for trial in train(context, round_index, missing, baseline, tail):
                done[tuple(trial.config), trial.seed] = trial
            round_index += 1
            for i in chosen:
                runs = [done[tuple(finals.configs[i]), s] for s in seeds]
                if reasons := [t.reason for t in runs if t.status == "failed"]:
                    failed[i] = reasons[0]
            continue
        kept = tuple(s for s in seeds if done[reference, s].status == "finished")
        if not kept:
            raise SearchStopped(
                f"the baseline failed with every seed of {seeds.start} to {seeds.stop - 1}: "
                f"{done[reference, first].reason}. Choose another baseline (a smaller training.dense_rate or "
                f"training.table_rate first)"
            )
        gains = {
            i: np.array(
                [
                    gain_of(
                        context,
                        done[tuple(finals.configs[i]), s],
                        done[reference, s],
                        baseline,
                        tail,
                    )
                    for s in kept
                ]
            )
            for i in chosen
        }
        more = seeds_to_add(list(gains.values()), plan.final_half_width, plan.max_final_seeds)
        if not auto or not more or count >= plan.max_final_seeds:
            break
        count = min(count + more, plan.max_final_seeds)
    tests = equal_ne_tests(finals, gains, plan.equal_ne_margin)
    as_good = [t.finalist for t in tests if t.passed]
    cheapest = min(as_good, key=lambda i: finals.costs[i], default=None)
    found = Confirmed(roles._replace(equal_ne=cheapest), kept, gains, failed, tests)
    record(context, finals, found)
    return found


def train(
    context: Context,
    round_index: int,
    runs: list[tuple[tuple[int, ...], int]],
    baseline: Baseline,
    tail: float,
) -> list[Trial]:
    """One batch of (configuration, seed) on all data."""
    return evaluate(
        context,
        STAGE,
        round_index,
        lambda: (np.array([c for c, _ in runs], np.int32), [s for _, s in runs], None),
        1.0,
        lambda curve: curve_label(
            ne_gain_percent(curve, baseline.mean_curve), 1.0, tail=tail, where=baseline.where
        ),
        baseline.flops,
    )


def gain_of(
    context: Context, trial: Trial, reference: Trial, baseline: Baseline, tail: float
) -> float:
    """Percent against the baseline's run of the same seed, on validation windows."""
    ours, theirs = (
        curve_label(curve_of(context, t), 1.0, tail=tail, where=baseline.where)
        for t in (trial, reference)
    )
    return float(ne_gain_percent(ours, theirs))


def equal_ne_tests(finals: Finals, gains: dict[int, np.ndarray], margin: float) -> list[EqualNE]:
    """The chosen models that are cheaper than the baseline, the one with the best chance first.

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


def nearest_miss(tests: list[EqualNE]) -> EqualNE | None:
    """Where no model passed, the one that ended the tests; None if one did or none is cheaper than the baseline."""
    return None if not tests or tests[0].passed else tests[0]


def record(context: Context, finals: Finals, found: Confirmed) -> None:
    """For the report of a run without its summary."""
    configs = {i: finals.configs[i] for i in found.gains}
    context.ledger.record(
        "confirmation",
        "validation",
        {
            "configs": list(configs.values()),
            "seeds": found.seeds,
            "gain": [found.gains[i].tolist() for i in configs],
            "costs": [float(finals.costs[i]) for i in configs],
            "trial_seed": context.plan.seed,
            "choice_seeds": finals.seeds,
            "equal_ne_margin": context.plan.equal_ne_margin,
            "equal_ne": [t._asdict() for t in found.equal_ne],
        },
    )


def refuse_finished_by_earlier_version(ledger: Ledger, seed: int) -> None:
    """A run whose verdict was made with the trials' own seeds is not continued with others.

    Raises:
        SearchStopped: with what to do.
    """
    ended = ledger.records("test") or ledger.records("session")
    if not ended or ledger.records("confirmation"):
        return
    raise SearchStopped(
        f"{ledger.path} was finished by an earlier version of autorank, which judged finalists by seeds that include "
        f"the trials' own ({seed}). Its report stays as it is and can be written again with "
        f"experiments/report.py run={ledger.path.parent}. For a verdict on fresh seeds search again: fresh=true moves "
        f"this run aside, or give the new one another name"
    )


def failures(found: Confirmed) -> list[str]:
    """Sentences about chosen models that failed with a fresh seed."""
    return [
        f"finalist {i + 1} was chosen and then failed with a fresh seed: {reason}"
        for i, reason in sorted(found.failed.items())
    ]


def finite(value: float | None) -> float | None:
    """None for what is not a finite number: JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)
