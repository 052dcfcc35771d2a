# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""The search space of a study: its current distributions, their conditions, and both as a `Space`."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial, TrialState

from autorank.integrations.optuna_values import stored_number
from autorank.space.space import Decision, Space

ASKED = "autorank:asked"  # a trial's attribute: the study in which it was asked for
LEAST_SEEN = 10  # trials from which conditions and changes are inferred
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)

Distributions = Mapping[str, BaseDistribution]
Conditions = Mapping[str, tuple[str, tuple[Any, ...]]]


@dataclasses.dataclass(frozen=True)
class Warner:
    """Warns once about each subject."""

    # Parameters and numbers of trials.
    about: set[str | int] = dataclasses.field(default_factory=set)

    def __call__(self, subject: str | int, message: str) -> None:
        """Warns, unless it has warned about the subject before."""
        if subject not in self.about:
            self.about.add(subject)
            warnings.warn(message, stacklevel=5)


@dataclasses.dataclass(frozen=True)
class SpaceReader:
    """Reads the current distributions of a study's parameters.

    Attributes:
        given: the user's search space; None infers it from the trials.
        grid_size: points of a range that has more.
        warn: told of parameters that cannot be searched as the user might expect.
    """

    given: Distributions | None
    grid_size: int
    warn: Warner

    def distributions(
        self, study: optuna.Study
    ) -> tuple[dict[str, BaseDistribution], list[FrozenTrial]]:
        """The distributions of all parameters that can be searched now, and the trials asked for in this study."""
        trials = trials_of(study)
        asked = [t for t in trials if t.system_attrs.get(ASKED) == study.study_name]
        if self.given is not None:
            found = self._reconciled(self.given, asked)
        else:
            found = self._inferred([t for t in trials if t.state in ENDED], asked)
        return {n: d for n, d in found.items() if not d.single() and self._has_points(d)}, asked

    def space(self, study: optuna.Study, distributions: Distributions) -> Space:
        """The search space of the distributions, with the conditions that the trials show."""
        ended = [t for t in trials_of(study) if t.state in ENDED]
        conditions = {} if self.given is not None else conditions_of(ended, distributions)
        return space_of(distributions, conditions, self.grid_size)

    def _inferred(
        self, ended: Sequence[FrozenTrial], asked: Sequence[FrozenTrial]
    ) -> dict[str, BaseDistribution]:
        found, changing = distributions_of(ended, asked)
        for name in sorted(changing):
            self.warn(
                name,
                f"{name}: its distribution changes from trial to trial, so AutoRankSampler samples it at random; "
                f"suggest it from one range, or pass search_space",
            )
        found = without_dropped(found, ended, asked)
        own = [t for t in asked if t.state in ENDED] or ended
        partial = any(name not in t.params for name in found for t in own)
        return {} if partial and len(ended) < LEAST_SEEN else found

    def _reconciled(
        self, given: Distributions, asked: Sequence[FrozenTrial]
    ) -> dict[str, BaseDistribution]:
        """The given space, with the job's distribution wherever the job suggests another kind."""
        found = dict(given)
        for name, d in given.items():
            own = [t.distributions[name] for t in asked if name in t.distributions]
            try:
                check_distribution_compatibility(d, own[-1] if own else d)
            except ValueError:
                found[name] = own[-1]
                self.warn(
                    name,
                    f"{name}: search_space says {d}, the job suggests {own[-1]}, which is used",
                )
        return found

    def _has_points(self, d: BaseDistribution) -> bool:
        is_range = isinstance(d, IntDistribution | FloatDistribution)
        return not is_range or len(points(d, self.grid_size)) > 0


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """All trials of the study in the order of their numbers."""
    return sorted(study.get_trials(deepcopy=False), key=lambda t: t.number)


def distributions_of(
    trials: Sequence[FrozenTrial], asked: Sequence[FrozenTrial] = ()
) -> tuple[dict[str, BaseDistribution], set[str]]:
    """The current distribution of every parameter of the ended trials, and the parameters whose distribution varies.

    The latest distribution is the current one, so a range that was edited once is simply the new range. A distribution
    varies if it changed more than once in the last `LEAST_SEEN` trials. Trials asked for in this study take precedence:
    added trials may come from another job, and count only for parameters that no asked trial has.
    """
    found: dict[str, BaseDistribution] = {}
    changing: set[str] = set()
    for name in dict.fromkeys(name for t in trials for name in t.distributions):
        own = [t.distributions[name] for t in asked if name in t.distributions]
        seen = own or [t.distributions[name] for t in trials if name in t.distributions]
        if sum(a != b for a, b in pairwise(seen[-LEAST_SEEN:])) > 1:
            changing.add(name)
        elif not seen[-1].single():
            found[name] = seen[-1]
    return found, changing


def conditions_of(
    trials: Sequence[FrozenTrial], found: Distributions | None = None
) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """For each parameter that only some trials have: the earlier parameter that determines which, and its values.

    An earlier parameter determines which trials if none of its values occurs both with and without the later one. A
    parameter for which there is no such parent counts as always present.
    """
    found = distributions_of(trials)[0] if found is None else found
    numbers = [
        {n: stored_number(d, t.params[n]) for n, d in found.items() if n in t.params}
        for t in trials
    ]
    conditions = {}
    for place, name in enumerate(found):
        has = [values for values in numbers if name in values]
        lacks = [values for values in numbers if name not in values]
        for parent in list(found)[:place] if lacks else []:
            if isinstance(found[parent], FloatDistribution):
                continue
            held = dict.fromkeys(values.get(parent) for values in has)
            if None not in held and not any(values.get(parent) in held for values in lacks):
                external = found[parent].to_external_repr
                conditions[name] = (parent, tuple(external(v) for v in held if v is not None))
                break
    return conditions


def without_dropped(
    found: Distributions, ended: Sequence[FrozenTrial], asked: Sequence[FrozenTrial]
) -> dict[str, BaseDistribution]:
    """Without parameters that the job no longer suggests: its latest trials lack them and no condition explains it."""
    recent = [t for t in asked if t.state in ENDED][-LEAST_SEEN:]
    gone = [n for n in found if not any(n in t.params for t in recent)]
    if len(recent) < LEAST_SEEN or not gone:
        return dict(found)
    conditions = conditions_of(ended, found)
    return {n: d for n, d in found.items() if n not in gone or n in conditions}


def space_of(distributions: Distributions, conditions: Conditions, grid_size: int) -> Space:
    """Decisions in the order of their names; the choices of a categorical one are its indices.

    Raises:
        ValueError: a distribution of an unknown type.
    """
    decisions = [_decision(name, distributions[name], grid_size) for name in sorted(distributions)]
    choices = {d.name: d.choices for d in decisions}
    for i, decision in enumerate(decisions):
        parent, values = conditions.get(decision.name, ("", ()))
        if parent in choices:
            numbers = tuple(stored_number(distributions[parent], v) for v in values)
            if set(numbers) <= set(choices[parent]):
                decisions[i] = decision._replace(parents=((parent, numbers),))
    return Space(tuple(decisions), tuple(len(d.choices) // 2 for d in decisions))


def _decision(name: str, d: BaseDistribution, grid_size: int) -> Decision:
    if isinstance(d, CategoricalDistribution):
        # Indices: choices may be equal, not equal to themselves, or of any type.
        return Decision(name, tuple(range(len(d.choices))))
    if isinstance(d, IntDistribution | FloatDistribution):
        return Decision(name, points(d, grid_size), "number", bool(d.log))
    raise ValueError(f"{name}: AutoRankSampler does not know {type(d).__name__}")


def points(d: IntDistribution | FloatDistribution, grid_size: int) -> tuple[float | int, ...]:
    """Up to ``grid_size`` rising values of a range, each valid by Optuna's own rule; empty if there are none.

    Examples:
        >>> points(IntDistribution(1, 9, step=4), 64)
        (1, 5, 9)
    """
    low, high = float(d.low), float(d.high)
    with np.errstate(all="ignore"):
        # Halved, then doubled: the width of a range of finite numbers may be infinite.
        even = 2 * np.linspace(low / 2, high / 2, grid_size)
        grid = np.geomspace(low, high, grid_size) if d.log else even
    grid = np.clip(grid, low, high)
    grid = grid[np.isfinite(grid)].tolist()
    if isinstance(d, IntDistribution):
        steps = (round((g - low) / d.step) for g in grid)
        values: set[float | int] = {int(d.low + step * d.step) for step in steps}
    elif d.step is not None:
        values = {float(min(high, low + round((g - low) / d.step) * d.step)) for g in grid}
    else:
        values = set(grid)
    return tuple(sorted(v for v in values if stored_number(d, v) is not None))
