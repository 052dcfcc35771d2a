"""From settings to objects: the only file that knows all names. Ordinary look-ups, no dotted strings."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from autorank.app.build_searchers import make_predictor, make_searcher
from autorank.app.identity import identity as identity
from autorank.app.settings import (
    BackendConfig,
    DataConfig,
    FidelityConfig,
    SearchConfig,
    TrainConfig,
    TrainingConfig,
    TuneConfig,
    fingerprint,
    flatten,
    value_at,
    with_values,
)
from autorank.base import measurable
from autorank.data.format.batches import Dataset
from autorank.data.logs import (
    avazu,
    criteo,
    criteo_like_text,
    kuairand,
    movielens,
    synthetic,
    table,
)
from autorank.data.prepare import store
from autorank.fidelity import fidelity
from autorank.models.heads import METRICS
from autorank.objectives.base import Objective
from autorank.objectives.cluster import Workers
from autorank.objectives.training import training_objective
from autorank.search.budget import Budget
from autorank.search.fidelity_choice import FidelityChoice
from autorank.searchers.base import Searcher
from autorank.space.parse import parse_space
from autorank.space.space import Space
from autorank.surrogates.predictor import Predictor
from autorank.training.compact import Setting
from autorank.training.trainer import Hparams

LOG = logging.getLogger("autorank")


def data_source(config: DataConfig) -> store.Source:
    """The raw log named by ``data.source``."""
    path = None if config.path is None else Path(config.path)
    if config.source == "table" and (path is None or config.schema is None):
        raise ValueError(
            "data=table needs data.path (a CSV or Parquet file) and data.schema (a YAML file with its columns' roles)"
        )
    if config.source == "movielens":
        return movielens.source(path)
    if config.source == "kuairand":
        return kuairand.source(path)
    if config.source == "criteo":
        return criteo.source(path)
    if config.source == "avazu":
        return avazu.source(path)
    if config.source == "criteo_like":
        return criteo_like_text.source(
            config.num_rows, seed=config.seed, max_vocabulary=config.max_vocabulary
        )
    if config.source == "synthetic":
        return synthetic.source(config.num_rows, seed=config.seed)
    assert path is not None and config.schema is not None
    return table.source(path, Path(config.schema))


def dataset(config: DataConfig, progress: Callable[[str], None]) -> Dataset:
    """Prepares the log on first use (or when source or settings changed) and memory-maps it."""
    # One folder for each source and settings: runs with different ones never prepare over each other.
    where = replace(config, folder="", path=config.path and str(Path(config.path).resolve()))
    folder = Path(config.folder) / f"{config.source}-{fingerprint(where)[:10]}"
    store.prepare(
        data_source(config),
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
        for metric in measurable.metrics_of(rows.labels):
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
    """What a compiled program takes as arguments."""
    return Hparams(**{name: jnp.float32(getattr(config, name)) for name in Hparams._fields})


def decoder(config: SearchConfig, search_space: Space) -> Callable[[np.ndarray], Setting]:
    """From a configuration to its model and training settings."""

    def decode(vector: np.ndarray) -> Setting:
        changed = with_values(config, search_space.decode(vector, inactive=True))
        return Setting(changed.model, hparams(changed.training))

    return decode


def objective(config: SearchConfig, data: Dataset, search_space: Space) -> Objective:
    """Training on the log, one configuration of the space after another."""
    decode = decoder(config, search_space)
    return _objective(config, data, decode, config.search.workers, config.search.executor)


def listed_objective(
    config: TrainConfig | TuneConfig, data: Dataset, settings: Sequence[Setting], workers: int = 1
) -> Objective:
    """Training on the log; configuration ``[i]`` is the i-th of ``settings``."""
    return _objective(config, data, lambda vector: settings[int(vector[0])], workers)


def _objective(
    config: SearchConfig | TrainConfig | TuneConfig,
    data: Dataset,
    decode: Callable[[np.ndarray], Setting],
    workers: int,
    executor: str = "auto",
) -> Objective:
    labels = len(data.schema.labels)
    if config.model.head != "ctr" and labels < 2:
        raise ValueError(
            f"model.head={config.model.head} needs click and conversion labels, but {data.schema.name} has only "
            f"{', '.join(data.schema.labels)}; write model.head=ctr"
        )
    return training_objective(
        data,
        decode,
        head=config.model.head,
        batch_size=config.training.batch_size,
        num_windows=config.training.num_windows,
        warmup_share=config.training.warmup_share,
        fingerprint=data.fingerprint(),
        progressive=config.training.held_out == "progressive",
        workers=workers,
        devices=config.training.devices,
        executor=executor,
        precision=config.training.precision,
    )


def predictor(config: SearchConfig, search_space: Space, capacity: int) -> Predictor:
    """The ensemble."""
    return make_predictor(config.predictor, search_space, capacity)


def capacity(config: SearchConfig) -> int:
    """Rows of the history: baseline and trials, rounded up so that a longer search seldom recompiles."""
    return 128 * math.ceil((config.search.trials + 1) / 128)


def searcher(config: SearchConfig, search_space: Space, ranker: Predictor) -> Searcher:
    """Who proposes."""
    initial = config.fidelity.num_pilots or 20
    return make_searcher(
        config.searcher, ranker, search_space, capacity=capacity(config), initial=initial
    )


def workers(config: BackendConfig) -> Workers | None:
    """The workers of a cluster; None where trials run in this process."""
    if config.kind == "local":
        return None
    return Workers(**{name: getattr(config, name) for name in Workers._fields})


def plan(config: SearchConfig) -> Budget:
    """Lengths of the stages."""
    p = config.search
    metric = "ctr" if p.metric == "auto" else p.metric
    metrics = METRICS[config.model.head]
    if metric not in (*metrics, "mean"):
        raise ValueError(
            f"search.metric={metric} is not measured with model.head={config.model.head}; write one of "
            f"{', '.join(metrics)}, mean"
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
        final_half_width=p.final_half_width,
        max_final_seeds=p.max_final_seeds,
        equal_cost=p.equal_cost,
        equal_ne_margin=p.equal_ne_margin,
        pilot_mutation=p.pilot_mutation,
        test_finalists=p.test_finalists,
    )


def fidelity_plan(config: FidelityConfig, seed: int) -> FidelityChoice:
    """How much of the log a trial sees; with ``kind=pilots`` decided when the pilots' curves are there."""

    def from_pilots(
        curves: np.ndarray, where: np.ndarray | None = None
    ) -> tuple[fidelity.Fidelity, dict[str, Any]]:
        return fidelity.from_pilots(
            curves,
            config.fractions,
            tail=config.tail,
            trend=config.trend,
            tau_floor=config.tau_floor,
            slack=config.slack,
            seed=seed,
            where=where,
        )

    def schedule() -> fidelity.Fidelity:
        if config.kind == "halving":
            return fidelity.successive_halving(config.rungs, eta=config.eta, tail=config.tail)
        fraction = 1.0 if config.kind == "full" else config.fraction
        return fidelity.single_rung(fraction, tail=config.tail)

    def as_set(
        curves: np.ndarray, where: np.ndarray | None = None
    ) -> tuple[fidelity.Fidelity, dict[str, Any]]:
        found = schedule()
        reason = f"set by fidelity.kind={config.kind}"
        return found, {"chosen_fraction": found.rungs[0], "chosen_dx": 0.0, "reason": reason}

    if config.kind == "pilots" and config.num_pilots < fidelity.MIN_PILOTS:
        raise ValueError(
            f"fidelity.kind=pilots needs fidelity.num_pilots of at least {fidelity.MIN_PILOTS}, not "
            f"{config.num_pilots}; or write fidelity=full"
        )
    if config.kind != "pilots":
        return FidelityChoice(config.tail, as_set, rungs=schedule().rungs)

    def restore(record: dict[str, Any]) -> fidelity.Fidelity:
        return fidelity.single_rung(
            record["chosen_fraction"], tail=config.tail, dx=record["chosen_dx"]
        )

    return FidelityChoice(config.tail, from_pilots, restore)
