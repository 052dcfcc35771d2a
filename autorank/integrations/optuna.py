# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Our searchers inside an Optuna study: ``optuna.create_study(sampler=AutoRankSampler())``.

Storages, dashboard, pruners and ``optimize`` stay Optuna's. A proposal is a function of the seed,
the study's trials and nothing else, so a study that is loaded again continues as it would have.
Failed trials are learned from; running ones are pending (`autorank.pending`) and are not proposed
again.
"""

import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

try:
    import optuna
except ImportError as error:
    raise ImportError(
        "autorank.integrations.optuna needs Optuna: pip install 'autorank[optuna]'"
    ) from error
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from autorank import build_searchers
from autorank.asker import Asker, Units
from autorank.grammar import find
from autorank.space import Decision, Space

PROPOSED = "autorank:proposed"  # a trial's attributes
PREDICTED = "autorank:predicted"
LEAST_SEEN = 10  # trials from which conditions are read off


class AutoRankSampler(optuna.samplers.BaseSampler):
    """Asks one of our searchers for all parameters of a study.

    Args:
        searcher: one of `autorank.build_searchers.searcher_names`.
        seed: of all proposals.
        search_space: name -> distribution; None takes what the finished trials had, so that the first trial is random
            (and the first `LEAST_SEEN` where not all have the same parameters).
        initial: trials before the searcher's model is trusted; None is the searcher's own number.
        alpha: weight of the second objective (a cost above 0) in a study of two directions.
        grid_size: points of a range that has more; None is 64, with searchers that learn each point by itself (paper,
            reinforce) 16.

    Studies have one objective, or two: quality, and a cost above 0 that is minimised. A parameter that only some trials
    have belongs to a condition where the values of another one tell which (`conditions_of`); one whose distribution
    changes from trial to trial is drawn at random, with a warning.
    """

    def __init__(
        self,
        searcher: str = "autorank",
        *,
        seed: int = 0,
        search_space: Mapping[str, BaseDistribution] | None = None,
        initial: int | None = None,
        alpha: float = 0.0,
        grid_size: int | None = None,
    ) -> None:
        if searcher not in build_searchers.searcher_names():
            raise ValueError(
                f"searcher={searcher!r} is not known; write one of {', '.join(build_searchers.searcher_names())}"
            )
        self._name, self._seed, self._initial, self._alpha = searcher, seed, initial, alpha
        self._grid_size = build_searchers.grid_size(searcher) if grid_size is None else grid_size
        self._given = None if search_space is None else dict(search_space)
        self._made: tuple[Space, Asker] | None = None
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled programs: studies are pickled."""
        return self.__dict__ | {"_made": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given space, or every parameter that the finished trials had."""
        if self._given is not None:
            return {name: d for name, d in self._given.items() if not d.single()}
        seen = _finished(study)
        found, changing = distributions_of(seen)
        for name in changing - self._warned:
            warnings.warn(
                f"{name}: its distribution changes from trial to trial, so AutoRankSampler draws it at random; "
                f"suggest it from one range, or hand in search_space",
                stacklevel=2,
            )
        self._warned |= changing
        partial = any(name not in t.params for name in found for t in seen)
        return {} if partial and len(seen) < LEAST_SEEN else found

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The searcher's next proposal, given all other trials of the study.

        Raises:
            ValueError: more than two objectives, or a cost that is to be maximised.
        """
        if not search_space:
            return {}
        if len(study.directions) > 2:
            raise ValueError(
                f"AutoRankSampler knows quality and cost; this study has {len(study.directions)} objectives"
            )
        if study.directions[1:] == [optuna.study.StudyDirection.MAXIMIZE]:
            raise ValueError(
                "AutoRankSampler takes the second objective for a cost, which is minimised; this study maximises it. "
                "Return its inverse with direction 'minimize'"
            )
        with self._lock:
            return self._propose(study, trial, search_space)

    def _propose(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        conditions = {} if self._given is not None else conditions_of(_finished(study))
        space = _space(search_space, conditions, self._grid_size)
        others, configs = [], []
        for other in sorted(study.get_trials(deepcopy=False), key=lambda t: t.number):
            config = _encode(space, search_space, other)
            if other.number != trial.number and config is not None:
                others.append(other)
                configs.append(config)
        rows = np.array(configs, np.int32).reshape(-1, space.num_decisions)
        ended = np.array([t.state.is_finished() for t in others], bool)
        units, metrics = _metrics(study, [t for t in others if t.state.is_finished()])
        pending = [t.system_attrs.get(PREDICTED) for t in others if not t.state.is_finished()]
        forecasts = np.array([p or [None, None] for p in pending], np.float64).reshape(-1, 2)
        roles = build_searchers.has_roles(self._name)
        found, predicted = self._asker(space)(
            trial.number,
            rows[ended],
            metrics,
            rows[~ended],
            units.told(forecasts[:, 0], forecasts[:, 1]),
            wanted=1,
            batch_size=8 if roles else 1,
            turn=trial.number if roles else None,
        )
        values = space.decode(found[0])
        own = [float(v) if math.isfinite(v) else None for v in units.own(predicted)[0]]
        inner = {n: search_space[n].to_internal_repr(v) for n, v in values.items()}
        for key, value in ((PROPOSED, inner), (PREDICTED, own)):
            study._storage.set_trial_system_attr(trial._trial_id, key, value)
        return values

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Uniform, from seed, trial and name alone: for parameters outside the shared space."""
        letters = [ord(c) for c in param_name]
        own = int(np.random.default_rng([self._seed, trial.number, *letters]).integers(2**32))
        sampler = optuna.samplers.RandomSampler(seed=own)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _asker(self, space: Space) -> Asker:
        if self._made is None or self._made[0] != space:

            def make(batch_size: int, capacity: int) -> Any:
                return build_searchers.named_searcher(
                    self._name,
                    space,
                    capacity=capacity,
                    batch_size=batch_size,
                    initial=self._initial,
                    alpha=self._alpha,
                )

            self._made = space, Asker(make, self._seed)
        return self._made[1]


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sorted(trials, key=lambda t: t.number)


def distributions_of(
    trials: Sequence[FrozenTrial],
) -> tuple[dict[str, BaseDistribution], set[str]]:
    """Every parameter in the order of appearance, and those whose distribution is not always the same."""
    found: dict[str, BaseDistribution] = {}
    changing: set[str] = set()
    for trial in trials:
        for name, d in trial.distributions.items():
            if found.setdefault(name, d) != d:
                changing.add(name)
    return {n: d for n, d in found.items() if n not in changing and not d.single()}, changing


def conditions_of(trials: Sequence[FrozenTrial]) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Parameters that only some trials have -> the earlier parameter that tells which, and with which values.

    An earlier one tells which if none of its values occurs both with and without the parameter. A parameter without
    such a one counts as always there.
    """
    found, _ = distributions_of(trials)
    conditions = {}
    for place, name in enumerate(found):
        has = [t for t in trials if name in t.params]
        lacks = [t for t in trials if name not in t.params]
        for parent in list(found)[:place] if lacks else []:
            if isinstance(found[parent], FloatDistribution) or any(
                parent not in t.params for t in has
            ):
                continue
            values = list(dict.fromkeys(t.params[parent] for t in has))
            if not any(t.params.get(parent, has) in values for t in lacks):
                conditions[name] = (parent, tuple(values))
                break
    return conditions


def _space(
    distributions: Mapping[str, BaseDistribution],
    conditions: Mapping[str, tuple[str, tuple[Any, ...]]],
    grid_size: int,
) -> Space:
    decisions = []
    for name in sorted(distributions):
        d = distributions[name]
        log = bool(getattr(d, "log", False))
        if isinstance(d, CategoricalDistribution):
            decision = Decision(name, tuple(d.choices))
        elif isinstance(d, IntDistribution | FloatDistribution):
            decision = Decision(name, _points(d, grid_size), "number", log)
        else:
            raise ValueError(f"{name}: AutoRankSampler does not know {type(d).__name__}")
        decisions.append(decision)
    choices = {d.name: d.choices for d in decisions}
    for i, decision in enumerate(decisions):
        parent, values = conditions.get(decision.name, ("", ()))
        if parent in choices and set(values) <= set(choices[parent]):
            decisions[i] = decision._replace(parents=((parent, values),))
    return Space(tuple(decisions), tuple(len(d.choices) // 2 for d in decisions))


def _points(d: IntDistribution | FloatDistribution, grid_size: int) -> tuple[float | int, ...]:
    low, high = float(d.low), float(d.high)
    grid = np.geomspace(low, high, grid_size) if d.log else np.linspace(low, high, grid_size)
    grid = np.clip(grid, low, high)
    if isinstance(d, IntDistribution):
        steps = np.round((grid - low) / d.step).astype(int)
        values = {int(d.low + step * d.step) for step in steps}
        return tuple(sorted(v for v in values if d.low <= v <= d.high))
    if d.step is not None:
        steps = np.round((grid - low) / d.step)
        return tuple(sorted({float(min(high, low + s * d.step)) for s in steps}))
    return tuple(grid.tolist())


def _encode(
    space: Space, distributions: Mapping[str, BaseDistribution], trial: FrozenTrial
) -> np.ndarray | None:
    """The choice nearest to each parameter (others may have chosen off our grid); None for a trial of other parameters.

    A running trial counts with what was proposed to it, an enqueued one with what it will have.
    """
    proposed = trial.system_attrs.get(PROPOSED, {})
    values = {
        n: distributions[n].to_external_repr(v) for n, v in proposed.items() if n in distributions
    }
    values |= trial.system_attrs.get("fixed_params", {}) | trial.params
    if not any(name in values for name in space.names):
        return None
    choices = {}
    for decision in space.decisions:
        if decision.name not in values:
            continue
        value = values[decision.name]
        if decision.kind == "categorical":
            if find(decision.choices, value) is None:
                return None
            choices[decision.name] = value
        else:
            scale = math.log if decision.log else float
            if decision.log and value <= 0:
                return None
            gaps = [abs(scale(c) - scale(value)) for c in decision.choices]
            choices[decision.name] = decision.choices[int(np.argmin(gaps))]
    return space.encode(choices)


def _metrics(study: optuna.Study, trials: Sequence[FrozenTrial]) -> tuple[Units, np.ndarray]:
    """The units of what is told, and ``[n, 2]``; a pruned trial counts with its last report."""
    rows = []
    for trial in trials:
        values = trial.values if trial.state == TrialState.COMPLETE else None
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            values = [trial.intermediate_values[max(trial.intermediate_values)]]
        quality = values[0] if values and math.isfinite(values[0]) else math.nan
        cost = values[1] if values and len(values) > 1 else math.nan
        rows.append((quality, cost if math.isfinite(cost) and cost > 0 else math.nan))
    found = np.array(rows, np.float64).reshape(-1, 2)
    priced = found[np.isfinite(found[:, 1]), 1]
    maximize = study.directions[0] == optuna.study.StudyDirection.MAXIMIZE
    good = found[np.isfinite(found[:, 0]), 0]
    units = Units.of(good.tolist(), float(priced[0]) if len(priced) else 1.0, maximize)
    told = units.told(found[:, 0], found[:, 1])
    told[:, 1] = np.nan_to_num(told[:, 1])
    return units, told.astype(np.float32)
