# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Our searchers inside an Optuna study: ``optuna.create_study(sampler=AutoRankSampler())``.

Storages, dashboard, pruners and ``optimize`` stay Optuna's. A proposal is a function of the seed,
the study's trials and nothing else, so a study that is loaded again continues as it would have.
Failed trials are learned from; running ones are pending (`autorank.searchers.pending`) and are not proposed
again. A trial that cannot be read is left out with a warning (`autorank.integrations.optuna_trials`).
"""

import math
import threading
import warnings
from collections.abc import Mapping
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
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from autorank.integrations.optuna_trials import (
    ENDED,
    LEAST_SEEN,
    PREDICTED,
    PROPOSED,
    conditions_of,
    distributions_of,
    encoder,
    forecast_of,
    metrics_of,
    points,
    space_of,
    still_there,
    value_of,
)
from autorank.searchers import named
from autorank.space.space import Space
from autorank.sweep.ask_batch import Asker

ASKED = "autorank:asked"  # a trial's attribute: the study that it was asked for in


class AutoRankSampler(optuna.samplers.BaseSampler):
    """Asks one of our searchers for all parameters of a study.

    Args:
        searcher: one of `autorank.searchers.base.SEARCHERS`.
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
        traits = named.find_searcher(searcher).traits
        self._name, self._seed, self._initial, self._alpha = searcher, seed, initial, alpha
        self._grid_size = traits["grid_size"] if grid_size is None else grid_size
        self._given = None if search_space is None else dict(search_space)
        self._made: tuple[Space, Asker] | None = None
        self._warned: set[str | int] = set()  # parameters and numbers of trials
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled programs: studies are pickled."""
        return self.__dict__ | {"_made": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Notes that the trial is asked for here: trials that are added may be another job's."""
        study._storage.set_trial_system_attr(trial._trial_id, ASKED, study.study_name)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given space, or every parameter that the ended trials had.

        Optuna fails a trial whose job suggests another kind of distribution than this, before it asks for a value.
        Where that may be (no trial was asked for here with it yet, or a database changes its choices) the space is
        empty, and `sample_independent` proposes for the distribution that it is handed.
        """
        found, asked = self._now(study)
        sure = all(any(n in t.distributions for t in asked) and _plain(d) for n, d in found.items())
        return found if sure else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The searcher's next proposal, given all other trials of the study.

        Raises:
            ValueError: more than two objectives, or a cost that is to be maximised.
        """
        if not search_space:
            return {}
        inner = self._propose(study, trial, search_space)
        return {name: value_of(search_space[name], v) for name, v in inner.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """What the searcher proposes, if it is in the distribution; else uniform, from seed, trial and name alone.

        Raises:
            ValueError: as `sample_relative`.
        """
        proposed = trial.system_attrs.get(PROPOSED)
        if proposed is None:
            found, _ = self._now(study)
            if param_name in found:
                found[param_name] = param_distribution
                proposed = self._propose(study, trial, found)
        try:
            return value_of(param_distribution, (proposed or {})[param_name])
        except (KeyError, ValueError):
            pass
        letters = [ord(c) for c in param_name]
        own = int(np.random.default_rng([self._seed, trial.number, *letters]).integers(2**32))
        sampler = optuna.samplers.RandomSampler(seed=own)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _now(self, study: optuna.Study) -> tuple[dict[str, BaseDistribution], list[FrozenTrial]]:
        """The distributions that hold now, of all that can be searched, and the trials that were asked for here."""
        trials = _trials(study)
        ended = [t for t in trials if t.state in ENDED]
        asked = [t for t in trials if t.system_attrs.get(ASKED) == study.study_name]
        found: dict[str, BaseDistribution]
        if self._given is not None:
            found = self._reconciled(self._given, asked)
        else:
            found, changing = distributions_of(ended, asked)
            for name in sorted(changing):
                self._warn(
                    name,
                    f"{name}: its distribution changes from trial to trial, so AutoRankSampler draws it at random; "
                    f"suggest it from one range, or hand in search_space",
                )
            found = still_there(found, ended, asked)
            own = [t for t in asked if t.state in ENDED] or ended
            partial = any(name not in t.params for name in found for t in own)
            if partial and len(ended) < LEAST_SEEN:
                found = {}
        return {n: d for n, d in found.items() if not d.single() and self._has_points(d)}, asked

    def _reconciled(
        self, given: Mapping[str, BaseDistribution], asked: list[FrozenTrial]
    ) -> dict[str, BaseDistribution]:
        """The given space; where the job suggests another kind of distribution, that."""
        found: dict[str, BaseDistribution] = dict(given)
        for name, d in given.items():
            own = [t.distributions[name] for t in asked if name in t.distributions]
            try:
                check_distribution_compatibility(d, own[-1] if own else d)
            except ValueError:
                found[name] = own[-1]
                self._warn(
                    name,
                    f"{name}: search_space says {d}, the job suggests {own[-1]}, which is used",
                )
        return found

    def _has_points(self, d: BaseDistribution) -> bool:
        numbers = isinstance(d, IntDistribution | FloatDistribution)
        return not numbers or len(points(d, self._grid_size)) > 0

    def _warn(self, about: str | int, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(message, stacklevel=4)

    def _propose(
        self, study: optuna.Study, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]
    ) -> dict[str, float | int]:
        """Optuna's numbers for the searcher's next proposal, which become an attribute of the trial."""
        _check_directions(study)
        with self._lock:
            values, predicted = self._search(study, trial, distributions)
            choice = {n: isinstance(distributions[n], CategoricalDistribution) for n in values}
            inner = {n: v if choice[n] else float(v) for n, v in values.items()}
            for key, value in ((PROPOSED, inner), (PREDICTED, predicted)):
                study._storage.set_trial_system_attr(trial._trial_id, key, value)
        return inner

    def _search(
        self, study: optuna.Study, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]
    ) -> tuple[dict[str, Any], list[float | None]]:
        """What the searcher proposes, and its forecast of quality and cost."""
        trials = _trials(study)
        ended = [t for t in trials if t.state in ENDED]
        conditions = {} if self._given is not None else conditions_of(ended, distributions)
        space = space_of(distributions, conditions, self._grid_size)
        others, rows = self._read(
            space, distributions, [t for t in trials if t.number != trial.number]
        )
        done = np.array([t.state.is_finished() for t in others], bool)
        units, metrics = metrics_of(study, [t for t in others if t.state.is_finished()])
        forecasts = [forecast_of(t) for t in others if not t.state.is_finished()]
        forecasts = np.array(forecasts, np.float64).reshape(-1, 2)
        roles = named.find_searcher(self._name).traits["has_roles"]
        found, predicted = self._asker(space)(
            trial.number,
            rows[done],
            metrics,
            rows[~done],
            units.told(forecasts[:, 0], forecasts[:, 1]),
            wanted=1,
            batch_size=8 if roles else 1,
            turn=trial.number if roles else None,
        )
        own = [float(v) if math.isfinite(v) else None for v in units.own(predicted)[0]]
        return space.decode(found[0]), own

    def _read(
        self, space: Space, distributions: Mapping[str, BaseDistribution], trials: list[FrozenTrial]
    ) -> tuple[list[FrozenTrial], np.ndarray]:
        """The trials that have a reading in the space, and their rows ``[n, k]``; a warning names the others."""
        encode = encoder(space, distributions)
        read, rows, odd = [], [], {}
        for trial in trials:
            row, reason = encode(trial)
            if row is not None:
                read.append(trial)
                rows.append(row)
            elif reason and trial.number not in self._warned:
                odd[trial.number] = reason
        if odd:
            first, reason = next(iter(odd.items()))
            more = f" (and {len(odd) - 1} more trials for such a reason)" if len(odd) > 1 else ""
            self._warned.update(odd)
            self._warn(
                f"odd {first}",
                f"trial {first} is left out of what AutoRankSampler learns from: {reason}{more}; "
                f"enqueue and add trials with values of the job's own distributions",
            )
        return read, np.array(rows, np.int32).reshape(-1, space.num_decisions)

    def _asker(self, space: Space) -> Asker:
        if self._made is None or self._made[0] != space:

            def make(batch_size: int, capacity: int) -> Any:
                return named.named_searcher(
                    self._name,
                    space,
                    capacity=capacity,
                    batch_size=batch_size,
                    initial=self._initial,
                    alpha=self._alpha,
                )

            self._made = space, Asker(make, self._seed)
        return self._made[1]


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    return sorted(study.get_trials(deepcopy=False), key=lambda t: t.number)


def _plain(d: BaseDistribution) -> bool:
    """Whether a database returns the choices as they were."""
    choices = d.choices if isinstance(d, CategoricalDistribution) else ()
    return all(c is None or isinstance(c, bool | int | float | str) for c in choices)


def _check_directions(study: optuna.Study) -> None:
    if len(study.directions) > 2:
        raise ValueError(
            f"AutoRankSampler knows quality and cost; this study has {len(study.directions)} objectives"
        )
    if study.directions[1:] == [optuna.study.StudyDirection.MAXIMIZE]:
        raise ValueError(
            "AutoRankSampler takes the second objective for a cost, which is minimised; this study maximises it. "
            "Return its inverse with direction 'minimize'"
        )
