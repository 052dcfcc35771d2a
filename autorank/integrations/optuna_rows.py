# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""A study's trials as rows of a search space, with their outcomes and forecasts.

A study may hold trials of any origin: enqueued with values of other types, added from other studies, run with ranges
that were changed since. What fits the current distributions is read. Anything else is left out with a reason, and never
raises an exception.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from autorank.integrations.optuna_space import ENDED, Distributions, Warner
from autorank.integrations.optuna_values import are_stored_alike, checked, finite, stored_number
from autorank.space.space import Decision, Space
from autorank.sweep.units import Units

# A trial's attributes.
PROPOSED = "autorank:proposed"  # name -> Optuna's number for the proposed value
PREDICTED = "autorank:predicted"  # forecast of quality and cost


class Encoder(NamedTuple):
    """Encodes trials as configurations of a space."""

    space: Space
    distributions: Distributions

    def row(self, trial: FrozenTrial) -> tuple[np.ndarray | None, str]:
        """A trial's configuration ``[k]`` with the choice nearest to each parameter, and why it has none.

        A trial of other parameters has neither configuration nor reason. A running trial counts with the values that
        were proposed, an enqueued one with those that it will have.
        """
        fixed = _mapping(trial.system_attrs.get("fixed_params"))
        proposed = _mapping(trial.system_attrs.get(PROPOSED))
        choices = {}
        for decision in self.space.decisions:
            name, d = decision.name, self.distributions[decision.name]
            given = trial.params if name in trial.params else fixed
            wanted = (
                stored_number(d, fixed[name]) if name in fixed else checked(d, proposed.get(name))
            )
            number = stored_number(d, given[name]) if name in given else wanted
            if number is not None:
                exact = wanted if are_stored_alike(d, number, wanted) else number
                choices[name] = _nearest(decision, exact)
            elif name in trial.params or (name in fixed and trial.state not in ENDED):
                return None, f"{name}={reprlib.repr(given[name])} is not in {d}"
        return (self.space.encode(choices), "") if choices else (None, "")

    def rows(
        self, trials: Sequence[FrozenTrial], warn: Warner
    ) -> tuple[list[FrozenTrial], np.ndarray]:
        """The trials that can be encoded, and their configurations ``[n, k]``; a warning names the others."""
        encoded, rows, odd = [], [], {}
        for trial in trials:
            row, reason = self.row(trial)
            if row is not None:
                encoded.append(trial)
                rows.append(row)
            elif reason and trial.number not in warn.about:
                odd[trial.number] = reason
        if odd:
            first, reason = next(iter(odd.items()))
            more = f" (and {len(odd) - 1} more trials for such a reason)" if len(odd) > 1 else ""
            warn.about.update(odd)
            warn(
                f"odd {first}",
                f"trial {first} is left out of what AutoRankSampler learns from: {reason}{more}; "
                f"enqueue and add trials with values of the job's own distributions",
            )
        return encoded, np.array(rows, np.int32).reshape(-1, self.space.num_decisions)


def forecast_of(trial: FrozenTrial) -> tuple[float, float]:
    """What was predicted of a trial when it was proposed: quality and cost, NaN if nothing was."""
    stored = trial.system_attrs.get(PREDICTED)
    if not isinstance(stored, list | tuple) or len(stored) != 2:
        return math.nan, math.nan
    return finite(stored[0]), finite(stored[1])


def told_outcomes(study: optuna.Study, trials: Sequence[FrozenTrial]) -> tuple[Units, np.ndarray]:
    """Outcomes as a searcher is told them, float32 ``[n, 2]``, and their units.

    A pruned trial counts with its last report, a failed one has NaN quality.
    """
    rows = []
    for trial in trials:
        values = list(trial.values or ()) if trial.state == TrialState.COMPLETE else []
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            values = [trial.intermediate_values[max(trial.intermediate_values)]]
        quality, cost = (finite(v) for v in [*values, None, None][:2])
        rows.append((quality, cost if cost > 0 else math.nan))
    found = np.array(rows, np.float64).reshape(-1, 2)
    priced = found[np.isfinite(found[:, 1]), 1]
    maximize = study.directions[0] == optuna.study.StudyDirection.MAXIMIZE
    good = found[np.isfinite(found[:, 0]), 0]
    units = Units.of(good.tolist(), float(priced[0]) if len(priced) else 1.0, maximize)
    told = units.told(found[:, 0], found[:, 1])
    told[:, 1] = np.nan_to_num(told[:, 1])
    return units, told.astype(np.float32)


def _nearest(decision: Decision, number: Any) -> Any:
    """The choice nearest to a number: others may have chosen values off the grid."""
    if decision.kind == "categorical":
        return number
    with np.errstate(over="ignore"):
        gaps = np.abs(_scaled(decision, decision.choices) - _scaled(decision, [number]))
    return decision.choices[int(np.argmin(gaps))]


def _scaled(decision: Decision, values: Sequence[float | int]) -> np.ndarray:
    numbers = np.array(values, np.float64)
    return np.log(numbers) if decision.log else numbers


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
