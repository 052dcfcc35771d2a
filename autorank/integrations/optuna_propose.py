# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Asks a searcher for the next trial of a study."""

import threading
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from autorank.base.metrics import finite_or_none
from autorank.integrations.optuna_rows import (
    PREDICTED,
    PROPOSED,
    Encoder,
    forecast_of,
    told_outcomes,
)
from autorank.integrations.optuna_space import Distributions, SpaceReader, trials_of
from autorank.sweep.ask_batch import Asker
from autorank.sweep.named import ASK_WITH_ROLES, NamedSearcher


class Proposer:
    """Proposes the values of a trial from the seed and the study's other trials.

    Args:
        searcher: one of `autorank.searchers.base.SEARCHERS`.
        seed: of all proposals.
        initial: trials before the searcher trusts its model; None is the searcher's default.
        alpha: weight of the cost.
        reader: reads the study's space.
    """

    def __init__(
        self, searcher: str, seed: int, initial: int | None, alpha: float, reader: SpaceReader
    ) -> None:
        self.name, self.seed, self.initial, self.alpha = searcher, seed, initial, alpha
        self.reader = reader
        self._asker: tuple[NamedSearcher, Asker] | None = None  # with compiled programs
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled programs: studies are pickled."""
        return self.__dict__ | {"_asker": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def propose(
        self, study: optuna.Study, trial: FrozenTrial, distributions: Distributions
    ) -> dict[str, float | int]:
        """Optuna's numbers for the proposed values, which are also stored as an attribute of the trial.

        Raises:
            ValueError: more than two objectives, or a second one that is to be maximised.
        """
        _check_directions(study)
        with self._lock:
            values, predicted = self._ask(study, trial, distributions)
            is_choice = {n: isinstance(distributions[n], CategoricalDistribution) for n in values}
            numbers = {n: v if is_choice[n] else float(v) for n, v in values.items()}
            for key, value in ((PROPOSED, numbers), (PREDICTED, predicted)):
                study._storage.set_trial_system_attr(trial._trial_id, key, value)
        return numbers

    def _ask(
        self, study: optuna.Study, trial: FrozenTrial, distributions: Distributions
    ) -> tuple[dict[str, Any], list[float | None]]:
        """The searcher's proposal, and its forecast of quality and cost."""
        space = self.reader.space(study, distributions)
        others = [t for t in trials_of(study) if t.number != trial.number]
        others, rows = Encoder(space, distributions).rows(others, self.reader.warn)
        ended = np.array([t.state.is_finished() for t in others], bool)
        units, outcomes = told_outcomes(study, [t for t in others if t.state.is_finished()])
        forecasts = [forecast_of(t) for t in others if not t.state.is_finished()]
        forecasts = np.array(forecasts, np.float64).reshape(-1, 2)
        searcher = NamedSearcher(self.name, space, self.initial, self.alpha)
        found, predicted = self._asker_of(searcher)(
            trial.number,
            rows[ended],
            outcomes,
            rows[~ended],
            units.told(forecasts[:, 0], forecasts[:, 1]),
            wanted=1,
            batch_size=ASK_WITH_ROLES if searcher.has_roles else 1,
            turn=trial.number if searcher.has_roles else None,
        )
        forecast = [finite_or_none(v) for v in units.own(predicted)[0]]
        return space.decode(found[0]), forecast

    def _asker_of(self, searcher: NamedSearcher) -> Asker:
        if self._asker is None or self._asker[0] != searcher:
            self._asker = searcher, Asker(searcher, self.seed)
        return self._asker[1]


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
