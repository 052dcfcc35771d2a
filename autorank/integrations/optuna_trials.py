# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""What a study's trials say: the distributions that hold now, conditions, and the rows that a searcher is told.

A study may hold trials of any origin: enqueued with values of other types, added from other studies, run with ranges
that were changed since. What has a reading under the distributions of now is read; anything else is left out with a
reason, and never an exception.
"""

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from autorank.space.space import Decision, Space
from autorank.sweep.units import Units

PROPOSED = "autorank:proposed"  # a trial's attributes: name -> Optuna's number for the value
PREDICTED = "autorank:predicted"
LEAST_SEEN = 10  # trials from which conditions and changes are read off
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def distributions_of(
    trials: Sequence[FrozenTrial], asked: Sequence[FrozenTrial] = ()
) -> tuple[dict[str, BaseDistribution], set[str]]:
    """Every parameter of the ended trials with the distribution that holds now, and those that keep changing.

    The latest distribution holds: a range that was edited once is simply the new one. More than one change among the
    last `LEAST_SEEN` trials means that it depends on the trial. Trials that were asked for here say what the job
    suggests; added ones may come from another job and count only where no asked one has the parameter.
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


def inner_of(distribution: BaseDistribution, value: Any) -> float | int | None:
    """Optuna's own number for a value, an index where it is a choice; None where the value is not in the distribution.

    A choice is first looked for with its type (``True`` is not ``1``), as JSON has it, since a database returns tuples
    as lists.
    """
    try:
        if isinstance(distribution, CategoricalDistribution):
            place = _place(distribution.choices, value)
            return int(distribution.to_internal_repr(value)) if place is None else place
        inner = float(distribution.to_internal_repr(value))
        return inner if distribution._contains(inner) else None
    except Exception:  # noqa: BLE001 - values are anybody's objects: not comparable, not a number, too large
        return None


def value_of(distribution: BaseDistribution, inner: Any) -> Any:
    """The value that Optuna's number stands for.

    Raises:
        ValueError: it is not in the distribution.
    """
    number = isinstance(inner, int | float) and not math.isnan(_number(inner))
    if not (number and distribution._contains(inner)):
        raise ValueError(f"{inner!r} is not in {distribution}")
    return distribution.to_external_repr(inner)


def conditions_of(
    trials: Sequence[FrozenTrial], found: Mapping[str, BaseDistribution] | None = None
) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Parameters that only some trials have -> the earlier parameter that tells which, and with which values.

    An earlier one tells which if none of its values occurs both with and without the parameter. A parameter without
    such a one counts as always there.
    """
    found = distributions_of(trials)[0] if found is None else found
    inner = [
        {n: inner_of(d, t.params[n]) for n, d in found.items() if n in t.params} for t in trials
    ]
    conditions = {}
    for place, name in enumerate(found):
        has = [values for values in inner if name in values]
        lacks = [values for values in inner if name not in values]
        for parent in list(found)[:place] if lacks else []:
            if isinstance(found[parent], FloatDistribution):
                continue
            told = dict.fromkeys(values.get(parent) for values in has)
            if None not in told and not any(values.get(parent) in told for values in lacks):
                external = found[parent].to_external_repr
                conditions[name] = (parent, tuple(external(v) for v in told if v is not None))
                break
    return conditions


def still_there(
    found: Mapping[str, BaseDistribution],
    ended: Sequence[FrozenTrial],
    asked: Sequence[FrozenTrial],
) -> dict[str, BaseDistribution]:
    """Without what the job has dropped, or never had: its latest trials lack it, and no condition says why."""
    recent = [t for t in asked if t.state in ENDED][-LEAST_SEEN:]
    gone = [n for n in found if not any(n in t.params for t in recent)]
    if len(recent) < LEAST_SEEN or not gone:
        return dict(found)
    conditions = conditions_of(ended, found)
    return {n: d for n, d in found.items() if n not in gone or n in conditions}


def space_of(
    distributions: Mapping[str, BaseDistribution],
    conditions: Mapping[str, tuple[str, tuple[Any, ...]]],
    grid_size: int,
) -> Space:
    """Decisions in the order of their names; the choices of a categorical one are its indices.

    Raises:
        ValueError: a distribution of an unknown type.
    """
    decisions = []
    for name in sorted(distributions):
        d = distributions[name]
        if isinstance(d, CategoricalDistribution):
            # Indices: choices may be equal, not equal to themselves, or of any type.
            decision = Decision(name, tuple(range(len(d.choices))))
        elif isinstance(d, IntDistribution | FloatDistribution):
            decision = Decision(name, points(d, grid_size), "number", bool(d.log))
        else:
            raise ValueError(f"{name}: AutoRankSampler does not know {type(d).__name__}")
        decisions.append(decision)
    choices = {d.name: d.choices for d in decisions}
    for i, decision in enumerate(decisions):
        parent, values = conditions.get(decision.name, ("", ()))
        if parent in choices:
            inner = tuple(inner_of(distributions[parent], v) for v in values)
            if set(inner) <= set(choices[parent]):
                decisions[i] = decision._replace(parents=((parent, inner),))
    return Space(tuple(decisions), tuple(len(d.choices) // 2 for d in decisions))


def points(d: IntDistribution | FloatDistribution, grid_size: int) -> tuple[float | int, ...]:
    """Up to ``grid_size`` values of a range, rising, each inside it by Optuna's own rule; empty if there are none."""
    low, high = float(d.low), float(d.high)
    with np.errstate(all="ignore"):
        # Halved and doubled: the width of a range of finite numbers may be infinite.
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
    return tuple(sorted(v for v in values if inner_of(d, v) is not None))


def encoder(
    space: Space, distributions: Mapping[str, BaseDistribution]
) -> Callable[[FrozenTrial], tuple[np.ndarray | None, str]]:
    """A trial's row, with the choice nearest to each parameter (others may have chosen off our grid).

    None and no reason for a trial of other parameters; None and the reason for one with a value that is not in its
    distribution. A running trial counts with what was proposed to it, an enqueued one with what it will have.
    """
    grids = {d.name: _scale(d, d.choices) for d in space.decisions if d.kind == "number"}

    def nearest(decision: Decision, inner: Any) -> Any:
        if decision.kind == "categorical":
            return inner
        with np.errstate(over="ignore"):
            gaps = np.abs(grids[decision.name] - _scale(decision, [inner]))
        return decision.choices[int(np.argmin(gaps))]

    def encode(trial: FrozenTrial) -> tuple[np.ndarray | None, str]:
        fixed = _mapping(trial.system_attrs.get("fixed_params"))
        proposed = _mapping(trial.system_attrs.get(PROPOSED))
        choices = {}
        for decision in space.decisions:
            name, d = decision.name, distributions[decision.name]
            given = trial.params if name in trial.params else fixed
            wanted = inner_of(d, fixed[name]) if name in fixed else _checked(d, proposed.get(name))
            inner = inner_of(d, given[name]) if name in given else wanted
            if inner is not None:
                choices[name] = nearest(decision, wanted if _equal(d, inner, wanted) else inner)
            elif name in trial.params or (name in fixed and trial.state not in ENDED):
                return None, f"{name}={reprlib.repr(given[name])} is not in {d}"
        return (space.encode(choices), "") if choices else (None, "")

    return encode


def forecast_of(trial: FrozenTrial) -> tuple[float, float]:
    """What was predicted of a trial when it was proposed: quality and cost, NaN where nothing was."""
    stored = trial.system_attrs.get(PREDICTED)
    if not isinstance(stored, list | tuple) or len(stored) != 2:
        return math.nan, math.nan
    return _number(stored[0]), _number(stored[1])


def metrics_of(study: optuna.Study, trials: Sequence[FrozenTrial]) -> tuple[Units, np.ndarray]:
    """The units of what is told, and ``[n, 2]``; a pruned trial counts with its last report."""
    rows = []
    for trial in trials:
        values = list(trial.values or ()) if trial.state == TrialState.COMPLETE else []
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            values = [trial.intermediate_values[max(trial.intermediate_values)]]
        quality, cost = (_number(v) for v in [*values, None, None][:2])
        rows.append((quality, cost if cost > 0 else math.nan))
    found = np.array(rows, np.float64).reshape(-1, 2)
    priced = found[np.isfinite(found[:, 1]), 1]
    maximize = study.directions[0] == optuna.study.StudyDirection.MAXIMIZE
    good = found[np.isfinite(found[:, 0]), 0]
    units = Units.of(good.tolist(), float(priced[0]) if len(priced) else 1.0, maximize)
    told = units.told(found[:, 0], found[:, 1])
    told[:, 1] = np.nan_to_num(told[:, 1])
    return units, told.astype(np.float32)


def _scale(decision: Decision, values: Sequence[float | int]) -> np.ndarray:
    numbers = np.array(values, np.float64)
    return np.log(numbers) if decision.log else numbers


def _number(value: Any) -> float:
    """A finite number, or NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _checked(distribution: BaseDistribution, inner: Any) -> float | int | None:
    try:
        value_of(distribution, inner)
    except ValueError:
        return None
    return inner


def _equal(distribution: BaseDistribution, one: Any, other: Any) -> bool:
    """Whether Optuna stores two choices as one, the first: ``True``, ``1`` and ``1.0`` are equal to it."""
    if not isinstance(distribution, CategoricalDistribution) or one is None or other is None:
        return False
    choices, inner = distribution.choices, distribution.to_internal_repr
    return inner(choices[int(one)]) == inner(choices[int(other)])


def _place(choices: Sequence[Any], value: Any) -> int | None:
    """Where a choice of the same type stands."""
    if value is None or isinstance(value, bool | int | float | str):
        same = (
            type(c) is type(value) and (c == value or c != c and value != value) for c in choices
        )  # noqa: PLR0124
    else:
        same = (_text(c) == _text(value) for c in choices)
    return next((i for i, found in enumerate(same) if found), None)


def _text(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return f"{type(value).__name__}: {value!r}"
