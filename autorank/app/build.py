"""From settings to objects, by the registries of the parts."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autorank.app.settings import (
    BackendConfig,
    SearchConfig,
    TrainConfig,
    TuneConfig,
)
from autorank.base import measurable
from autorank.base.records import digest, flatten, plain, value_at, with_values
from autorank.base.searched import NE, searched
from autorank.data.format.batches import Dataset
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.data.prepare import store
from autorank.fidelity.rules import FIDELITIES, FidelityConfig, FidelityRule, FreezeThawConfig
from autorank.models.dhen import DhenConfig
from autorank.models.heads import METRICS
from autorank.objectives.base import Objective
from autorank.objectives.cluster import Workers
from autorank.objectives.slices import Slicing
from autorank.objectives.training import ObjectiveConfig, training_objective
from autorank.population.spaces import capacities_of
from autorank.search.budget import Budget
from autorank.searchers.base import SEARCHERS, Context, Searcher, Warm
from autorank.searchers.known_cost import KnownCost
from autorank.searchers.region import Region, within_cap
from autorank.space.parse import parse_space
from autorank.space.space import Space
from autorank.surrogates.predictor import Predictor, make_predictor
from autorank.training.compact import Setting
from autorank.training.settings import TrainingConfig
from autorank.training.step import Hparams

LOG = logging.getLogger("autorank")


# When all sources shared one record, a fingerprint was over the fields of all; so prepared folders keep their names.
FIELDS_OF_ALL = {
    "path": None,
    "schema": None,
    "num_rows": 500_000,
    "seed": 0,
    "max_vocabulary": None,
}


def prepared_folder(config: DataConfig) -> Path:
    """One for each source and settings, so that runs with different ones never prepare over each other."""
    settings = FIELDS_OF_ALL | plain(replace(config, folder=""))
    settings["path"] = settings["path"] and str(Path(settings["path"]).resolve())
    return Path(config.folder) / f"{config.source}-{digest([settings])[:10]}"


def dataset(config: DataConfig, progress: Callable[[str], None]) -> Dataset:
    """Prepares the log on first use (or when source or settings changed) and memory-maps it."""
    folder = prepared_folder(config)
    store.prepare(
        SOURCES[config.source].make(config),
        folder,
        train_fraction=config.train_fraction,
        min_count=config.min_count,
        max_bad_share=config.max_bad_share,
        encoding=config.encoding,
        hash_size=config.hash_size,
        progress=progress,
    )
    data = store.load(folder)
    names = data.schema.label_names
    for part, rows in (("training", data.train()), ("held-out", data.test())):
        for metric in measurable.possible_metrics(rows.labels):
            counts = measurable.count(part, rows.labels, metric)
            if not counts.known:
                LOG.warning(
                    "%s: %s: NE of %s cannot be computed there and will be null",
                    data.schema.name,
                    measurable.described(counts, names),
                    metric,
                )
    return data


def space(config: SearchConfig) -> Space:
    """The search space around the composed settings: they are its baseline.

    Every key that it sets must be a setting of the model or of training.

    Raises:
        ValueError: a bad choice, an unknown key, a baseline outside: each named.
    """
    decisions = {key: str(text) for key, text in flatten(config.space.decisions).items()}
    parsed = parse_space(
        decisions,
        {child: flatten(parents) for child, parents in config.space.conditions.items()},
        {key: value_at(config, key) for key in decisions},
        grid_size=config.space.grid_size,
    )
    for decision in parsed.decisions:
        if decision.name.split(".")[0] not in ("model", "training"):
            raise ValueError(
                f"space.decisions.{decision.name}: only model.* and training.* can be searched over here"
            )
        for choice in decision.choices:
            try:
                with_values(config, {decision.name: choice})
            except ValueError as error:
                raise ValueError(
                    f"space.decisions.{decision.name}, choice {choice!r}: {error}"
                ) from error
    return parsed


def hparams(config: TrainingConfig) -> Hparams:
    """What a compiled program takes as arguments, on the host: a search decodes thousands of configurations."""
    values: dict[str, Any] = {
        name: np.asarray(getattr(config, name), np.float32) for name in Hparams._fields
    }
    return Hparams(**values)


def decoder(config: SearchConfig, search_space: Space) -> Callable[[np.ndarray], Setting]:
    """From a configuration to its model and training settings."""

    def decode(vector: np.ndarray) -> Setting:
        changed = with_values(config, search_space.decode(vector, inactive=True))
        return Setting(changed.model, hparams(changed.training))

    return decode


def objective(
    config: SearchConfig, data: Dataset, search_space: Space, slices: Slicing | None = None
) -> Objective:
    """Training on the log, one configuration of the space after another; keeps the losses of ``slices``."""
    own = replace(objective_settings(config, data, search_space), slices=slices)
    return _objective(config, data, decoder(config, search_space), own)


def objective_settings(config: SearchConfig, data: Dataset, search_space: Space) -> ObjectiveConfig:
    """How the trials of a search are trained."""
    p, prefix = config.search, "model."
    choices = {
        decision.name.removeprefix(prefix): decision.choices
        for decision in search_space.decisions
        if decision.name.startswith(prefix)
    }
    sizes = len(data.schema.fields), len(data.schema.dense)
    return ObjectiveConfig(
        config.training,
        config.model.head,
        p.workers,
        p.executor,
        capacities=capacities_of(choices, config.model, *sizes),
        at_once=max(config.searcher.batch_size, config.fidelity.num_pilots, p.noise_seeds),
        expected_trials=p.trials + p.noise_seeds,
        first=config.model,  # the baseline
        qps_seconds=p.qps_seconds,
        measure=searched(p.metric).measure,
    )


def listed_objective(
    config: TrainConfig | TuneConfig, data: Dataset, settings: Sequence[Setting], workers: int = 1
) -> Objective:
    """Training on the log; configuration ``[i]`` is the i-th of ``settings``."""
    own = ObjectiveConfig(config.training, config.model.head, workers, "auto")
    return _objective(config, data, lambda vector: settings[int(vector[0])], own)


def reference_objective(
    training: TrainingConfig, model: DhenConfig, data: Dataset, setting: Setting
) -> Objective:
    """Training one model on the log, whatever the program's record is."""
    config = TrainConfig(training=training, model=model)
    return listed_objective(config, data, [setting])


def _objective(
    config: SearchConfig | TrainConfig | TuneConfig,
    data: Dataset,
    decode: Callable[[np.ndarray], Setting],
    settings: ObjectiveConfig,
) -> Objective:
    labels = len(data.schema.labels)
    if config.model.head != "ctr" and labels < 2:
        raise ValueError(
            f"model.head={config.model.head} needs click and conversion labels, but {data.schema.name} has only "
            f"{', '.join(data.schema.labels)}; write model.head=ctr"
        )
    return training_objective(data, decode, settings)


def predictor(config: SearchConfig, search_space: Space) -> Predictor | None:
    """The ensemble that the searcher learns with, for the report to say how well it ranks; None where none does."""
    if not SEARCHERS[config.searcher.name].traits["reads_predictor"]:
        return None
    return make_predictor(config.predictor, search_space.num_features, capacity(config))


def capacity(config: SearchConfig) -> int:
    """Rows of the history: the baseline's runs and trials, rounded up so that a longer search seldom recompiles."""
    runs = config.search.trials + max(config.search.noise_seeds, 1)
    return 128 * math.ceil(runs * max(len(chosen_rungs(config)), 1) / 128)


def chosen_rungs(config: SearchConfig) -> tuple[float, ...]:
    """The shares of the log that the searcher chooses among; empty where the fidelity rule alone decides."""
    return config.fidelity.rungs if isinstance(config.fidelity, FreezeThawConfig) else ()


def searcher(
    config: SearchConfig,
    search_space: Space,
    cost: KnownCost | None = None,
    warm: Warm | None = None,
) -> Searcher:
    """What proposes the trials; with a cap on the cost nothing beyond it.

    Args:
        config: the search's settings.
        search_space: where it searches.
        cost: of configurations, where it is known.
        warm: earlier searches to learn from.

    Raises:
        ValueError: a cap that leaves nothing to search.
    """
    p, rows, batch_size = config.search, capacity(config), config.searcher.batch_size
    pilots = config.fidelity.num_pilots or 20
    rungs = chosen_rungs(config)
    context = Context(rows, pilots, config.predictor, not rungs, p.goal, cost, warm, rungs)
    made = SEARCHERS[config.searcher.name].make(search_space, config.searcher, context)
    if rungs:
        return made  # whose proposals have a rung; it knows of the cap
    region = Region(search_space, cost and cost.fits)
    return within_cap(made, region, batch_size=batch_size, capacity=rows)


def fidelity_rule(config: FidelityConfig, seed: int) -> FidelityRule:
    """How much of the log a trial sees."""
    return FIDELITIES[config.kind].make(config, seed)


def workers(config: BackendConfig) -> Workers | None:
    """The workers of a cluster; None where trials run in this process."""
    if config.kind == "local":
        return None
    return Workers(**{name: getattr(config, name) for name in Workers._fields})


def budget(config: SearchConfig) -> Budget:
    """Lengths of the stages."""
    p = config.search
    metric, measure = searched(p.metric)
    metrics = METRICS[config.model.head]
    if metric not in (*metrics, "mean"):
        raise ValueError(
            f"search.metric={p.metric} is not measured with model.head={config.model.head}; write one of "
            f"{', '.join(metrics)}, mean"
            + ("" if measure == NE else f", each with -{measure} behind it")
        )
    return Budget(
        trials=p.trials,
        seed=p.seed,
        metric=metric,
        num_pilots=min(config.fidelity.num_pilots, p.trials),
        batch_size=config.searcher.batch_size,
        noise_seeds=p.noise_seeds,
        final_seeds=p.final_seeds,
        finalists=p.finalists,
        max_diverged=p.max_diverged,
        choice_seeds=p.choice_seeds,
        measure=measure,
        final_half_width=p.final_half_width,
        max_final_seeds=p.max_final_seeds,
        equal_cost=p.equal_cost,
        equal_ne_margin=p.equal_ne_margin,
        pilot_mutation=p.pilot_mutation,
        test_finalists=p.test_finalists,
        max_flops_ratio=p.max_flops_ratio,
    )
