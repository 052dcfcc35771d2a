# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Our searchers inside an Optuna study: ``optuna.create_study(sampler=AutoRankSampler())``.

Storages, dashboard, pruners and ``optimize`` stay Optuna's. A proposal is a function of the seed,
the study's trials and nothing else, so a study that is loaded again continues as it would have.
Failed trials are learned from; running ones are pending (`autorank.pending`) and are not proposed
again.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
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
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from autorank import build
from autorank.pending import ask_with_pending
from autorank.searchers.base import Searcher
from autorank.space import Decision, Space
from autorank.sweep import rotated
from autorank.training.programs import compiler_options

LEAST_ASK = 8


class AutoRankSampler(optuna.samplers.BaseSampler):
    """Asks one of our searchers for the parameters that all finished trials share.

    Args:
        searcher: one of `autorank.build.searcher_names`.
        seed: of all proposals.
        search_space: name -> distribution; None takes what the trials so far have in common, so that the first
            trial is random.
        initial: trials before the searcher's predictor is trusted.
        alpha: weight of the second objective (a cost above 0) in a study of two directions.
        max_trials: capacity; more trials than that in one study are refused.
        grid_size: points of a range that has more.

    Studies have one objective, or two: quality, and a cost above 0 that is minimised.
    """

    def __init__(
        self,
        searcher: str = "autorank",
        *,
        seed: int = 0,
        search_space: Mapping[str, BaseDistribution] | None = None,
        initial: int = 20,
        alpha: float = 0.0,
        max_trials: int = 384,
        grid_size: int = 16,
    ) -> None:
        if searcher not in build.searcher_names():
            raise ValueError(
                f"searcher={searcher!r} is not known; write one of {', '.join(build.searcher_names())}"
            )
        self._name, self._seed, self._initial = searcher, seed, initial
        self._alpha, self._max_trials, self._grid_size = alpha, max_trials, grid_size
        self._given = None if search_space is None else dict(search_space)
        self._shared = IntersectionSearchSpace()
        self._made: tuple[Space, Searcher, Any, Any] | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given space, or what the study's trials have in common."""
        space = self._given if self._given is not None else self._shared.calculate(study)
        return {name: d for name, d in space.items() if not d.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The searcher's next proposal, given all other trials of the study."""
        if not search_space:
            return {}
        if len(study.directions) > 2:
            raise ValueError(
                f"AutoRankSampler knows quality and cost; this study has {len(study.directions)} objectives"
            )
        space = _space(search_space, self._grid_size)
        searcher, ask, tell = self._searcher(space)
        others = [
            t
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number and set(search_space) <= set(_parameters(t))
        ]
        ended = sorted((t for t in others if t.state.is_finished()), key=lambda t: t.number)
        pending = [t for t in others if not t.state.is_finished()]
        if len(others) >= self._max_trials:
            raise ValueError(
                f"the study has {len(others)} trials and AutoRankSampler was made for max_trials="
                f"{self._max_trials}; make it with a larger one"
            )
        state = searcher.init(jax.random.key(self._seed))
        metrics = _metrics(study, ended)
        for other, outcome in zip(ended, metrics, strict=True):
            state = tell(state, _encode(space, search_space, other)[None], outcome[None])
        configs = np.array([_encode(space, search_space, t) for t in pending], np.int32)
        key = jax.random.fold_in(jax.random.key(self._seed), trial.number)
        proposal = jax.tree.map(
            np.asarray,
            ask_with_pending(
                ask,
                tell,
                key,
                state,
                configs.reshape(-1, space.num_decisions),
                np.full((len(pending), 2), np.nan),
            ),
        )
        (row,) = rotated(len(proposal.configs), trial.number, 1, proposal.info["repeat"])
        return space.decode(proposal.configs[row])

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

    def _searcher(self, space: Space) -> tuple[Searcher, Any, Any]:
        if self._made is None or self._made[0] != space:
            searcher = build.named_searcher(
                self._name,
                space,
                trials=self._max_trials - 1,
                batch_size=LEAST_ASK,
                initial=self._initial,
                alpha=self._alpha,
            )
            options = compiler_options()
            self._made = (
                space,
                searcher,
                jax.jit(searcher.ask, compiler_options=options),
                jax.jit(searcher.tell, compiler_options=options),
            )
        return self._made[1:]


def _space(distributions: Mapping[str, BaseDistribution], grid_size: int) -> Space:
    decisions = []
    for name in sorted(distributions):
        d = distributions[name]
        log = bool(getattr(d, "log", False))
        if isinstance(d, CategoricalDistribution):
            decisions.append(Decision(name, tuple(d.choices)))
        elif isinstance(d, IntDistribution | FloatDistribution):
            decisions.append(Decision(name, _points(d, grid_size), "number", log))
        else:
            raise ValueError(f"{name}: AutoRankSampler does not know {type(d).__name__}")
    return Space(tuple(decisions), tuple(len(d.choices) // 2 for d in decisions))


def _points(d: IntDistribution | FloatDistribution, grid_size: int) -> tuple[float | int, ...]:
    low, high = float(d.low), float(d.high)
    grid = np.geomspace(low, high, grid_size) if d.log else np.linspace(low, high, grid_size)
    grid = np.clip(grid, low, high)
    if isinstance(d, IntDistribution):
        steps = np.round((grid - low) / d.step).astype(int)
        values = {int(d.low + s * d.step) for s in steps} & set(range(d.low, d.high + 1))
        return tuple(sorted(values))
    if d.step is not None:
        steps = np.round((grid - low) / d.step)
        return tuple(sorted({float(min(high, low + s * d.step)) for s in steps}))
    return tuple(grid.tolist())


def _parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Those that a trial has, or that an enqueued one will have."""
    return trial.system_attrs.get("fixed_params", {}) | trial.params


def _encode(
    space: Space, distributions: Mapping[str, BaseDistribution], trial: FrozenTrial
) -> np.ndarray:
    """The choice nearest to each parameter (others may have chosen off our grid)."""
    values = _parameters(trial)
    config = []
    for decision in space.decisions:
        value = values[decision.name]
        if decision.kind == "number":
            scale = math.log if decision.log else float
            gaps = [abs(scale(c) - scale(value)) for c in decision.choices]
            config.append(int(np.argmin(gaps)))
        else:
            config.append(decision.choices.index(value))
    return np.array(config, np.int32)


def _metrics(study: optuna.Study, trials: Sequence[FrozenTrial]) -> np.ndarray:
    """float32 ``[n, 2]``, lower is better, in spreads around the median; a pruned trial counts with its last report."""
    sign = -1.0 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1.0
    rows = []
    for trial in trials:
        values = trial.values if trial.state == TrialState.COMPLETE else None
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            values = [trial.intermediate_values[max(trial.intermediate_values)]]
        quality = sign * values[0] if values and math.isfinite(values[0]) else math.nan
        cost = values[1] if values and len(values) > 1 and values[1] > 0 else math.nan
        rows.append((quality, math.log(cost) if math.isfinite(cost) else math.nan))
    found = np.array(rows, np.float64).reshape(-1, 2)
    good = found[np.isfinite(found[:, 0])]
    if len(good):
        spread = np.subtract(*np.percentile(good[:, 0], [75, 25]))
        spread = spread if spread > 0 else max(1.0, abs(np.median(good[:, 0])))
        found[:, 0] = np.clip((found[:, 0] - np.median(good[:, 0])) / spread, -1e4, 1e4)
    priced = found[np.isfinite(found[:, 1]), 1]
    found[:, 1] = np.nan_to_num(found[:, 1] - (priced[0] if len(priced) else 0.0))
    return found.astype(np.float32)
