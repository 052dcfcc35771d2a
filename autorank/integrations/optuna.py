# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Our searchers inside an Optuna study: ``optuna.create_study(sampler=AutoRankSampler())``.

Storages, dashboard, pruners and ``optimize`` remain Optuna's. A proposal is a function of the seed and the study's
trials alone, so a study that is loaded again continues as it would have. Failed trials are learned from. Running ones
are pending (`autorank.searchers.pending`) and are not proposed again. A trial that cannot be read is left out with a
warning (`autorank.integrations.optuna_rows`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

try:
    import optuna
except ImportError as error:
    raise ImportError(
        "autorank.integrations.optuna needs Optuna: pip install 'autorank[optuna]'"
    ) from error
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from autorank.integrations.optuna_propose import Proposer
from autorank.integrations.optuna_rows import PROPOSED
from autorank.integrations.optuna_space import ASKED, SpaceReader, Warner
from autorank.integrations.optuna_values import survives_storage, value_of
from autorank.sweep.named import grid_size_of


class AutoRankSampler(optuna.samplers.BaseSampler):
    """Asks one of our searchers for all parameters of a study.

    A study has one objective, or two: quality, and a cost above 0 that is minimised. A parameter that only some trials
    have becomes conditional if the values of an earlier one determine which trials
    (`autorank.integrations.optuna_space.conditions_of`). A parameter whose distribution changes from trial to trial is
    sampled at random, with a warning.

    Args:
        searcher: one of `autorank.searchers.base.SEARCHERS`.
        seed: of all proposals.
        search_space: name -> distribution. None infers it from the finished trials: the first trial is then random,
            and so are the first ten if not all have the same parameters.
        initial: trials before the searcher trusts its model; None is the searcher's default.
        alpha: weight of the second objective (a cost above 0) in a study of two directions.
        grid_size: points of a range that has more; None is 64, or 16 for searchers that learn each point by itself
            (paper, reinforce).

    Raises:
        ValueError: an unknown searcher.

    Examples:
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=AutoRankSampler("random", seed=0))
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
        >>> study.best_value < 1
        True
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
        own_size = grid_size_of(searcher)
        size = own_size if grid_size is None else grid_size
        given = None if search_space is None else dict(search_space)
        self._seed = seed
        self._reader = SpaceReader(given, size, Warner())
        self._proposer = Proposer(searcher, seed, initial, alpha, self._reader)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Marks the trial as asked for in this study; trials that are added may belong to another job."""
        study._storage.set_trial_system_attr(trial._trial_id, ASKED, study.study_name)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given space, or every parameter that the ended trials had.

        Optuna fails a trial whose job suggests another kind of distribution than this one, before it asks for a value.
        Where that may happen (no trial of this study had the parameter yet, or a database changes its choices), the
        space is empty and `sample_independent` proposes for the distribution that the job suggests.
        """
        found, asked = self._reader.distributions(study)
        is_certain = all(
            any(n in t.distributions for t in asked) and survives_storage(d)
            for n, d in found.items()
        )
        return found if is_certain else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The searcher's next proposal, given all other trials of the study.

        Raises:
            ValueError: more than two objectives, or a cost that is to be maximised.
        """
        if not search_space:
            return {}
        numbers = self._proposer.propose(study, trial, search_space)
        return {name: value_of(search_space[name], v) for name, v in numbers.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The searcher's proposal if it is in the distribution, else a uniform draw from seed, trial and name alone.

        Raises:
            ValueError: as `sample_relative`.
        """
        proposed = trial.system_attrs.get(PROPOSED)
        if proposed is None:
            found, _ = self._reader.distributions(study)
            if param_name in found:
                found[param_name] = param_distribution
                proposed = self._proposer.propose(study, trial, found)
        try:
            return value_of(param_distribution, (proposed or {})[param_name])
        except (KeyError, ValueError):
            pass
        letters = [ord(c) for c in param_name]
        seed = int(np.random.default_rng([self._seed, trial.number, *letters]).integers(2**32))
        sampler = optuna.samplers.RandomSampler(seed=seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)
