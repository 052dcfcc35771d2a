"""Other people's models beside a data set's baseline: gradient-boosted trees and logistic regression of scikit-learn.

Both learn from statistics of earlier rows (`target_statistics`) and the dense features, on the same split, and are
scored by the same measures on the same held-out rows, so that no table compares only with ourselves.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autorank.app import build
from autorank.app.training_job import held_out_scores
from autorank.base.jax_settings import own_settings
from autorank.base.measurable import targets_of
from autorank.base.records import as_tuples, require, require_range
from autorank.base.scored_rows import scores_of
from autorank.data.format.batches import Dataset
from autorank.data.format.users import users_of
from autorank.data.logs.base import DataConfig
from autorank.data.logs.movielens import MovielensConfig
from autorank.models.dhen import DhenConfig
from autorank.models.heads import METRICS
from autorank.studies.target_statistics import encode
from autorank.training.compact import Setting
from autorank.training.settings import TrainingConfig

LOG = logging.getLogger("autorank")
MODELS = ("baseline", "boosted_trees", "logistic")
# Stated, not tuned: scikit-learn's defaults with twice as many trees at most, stopped early on a tenth of the rows.
TREES = {"max_iter": 200, "early_stopping": True}
SHOWN = ("ne", "log_loss", "auc", "gauc", "ndcg@5", "calibration", "ece")


@dataclass(frozen=True)
class ReferenceConfig:
    """`experiments/reference.py`."""

    name: str = "reference"  # rows go to <results>/<name>.csv
    runs: str = "runs"
    results: str = "experiments/results"
    models: tuple[str, ...] = MODELS  # the data set's baseline trains on all rows
    rows: int = 1_000_000  # training rows of the trees and the regression, the last ones; statistics count all
    seeds: int = 3  # of the baseline and the trees; the regression has none
    data: DataConfig = field(default_factory=MovielensConfig)
    model: DhenConfig = field(default_factory=DhenConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self):
        as_tuples(self, "models")
        for name in self.models:
            require("models", name, MODELS)
        require_range("rows", self.rows, 1000, 1 << 40)
        require_range("seeds", self.seeds, 1, 1000)


@own_settings()
def run_reference(config: ReferenceConfig) -> list[dict[str, Any]]:
    """Every model of a data set by every metric: a row each, with means and standard deviations over seeds.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    data = build.dataset(config.data, LOG.info)
    rows = []
    for model in config.models:
        started = time.process_time()
        found = baseline(config, data) if model == "baseline" else fitted(config, data, model)
        seconds = time.process_time() - started
        for metric, scores in found.items():
            rows.append(
                row_of(config, data, model, metric, scores) | {"cpu_seconds": round(seconds, 1)}
            )
            LOG.info("%s, %s: %s", model, metric, rows[-1])
    return rows


def row_of(
    config: ReferenceConfig,
    data: Dataset,
    model: str,
    metric: str,
    scores: Sequence[dict[str, float]],
) -> dict[str, Any]:
    """Means over seeds, and the standard deviation of NE."""
    train = data.schema.num_train
    row: dict[str, Any] = {
        "data": data.schema.name,
        "metric": metric,
        "model": model,
        "training_rows": train if model == "baseline" else min(train, config.rows),
        "held_out_rows": data.schema.num_rows - train,
        "seeds": len(scores),
    }
    row |= {name: float(np.mean([s[name] for s in scores])) for name in SHOWN if name in scores[0]}
    sd = float(np.std([s["ne"] for s in scores], ddof=1)) if len(scores) > 1 else float("nan")
    return row | {"ne_sd": sd}


def baseline(config: ReferenceConfig, data: Dataset) -> dict[str, list[dict[str, float]]]:
    """The data set's own baseline with each seed."""
    setting = Setting(config.model, build.hparams(config.training))
    objective = build.reference_objective(config.training, config.model, data, setting)
    assert objective.test is not None
    found: dict[str, list[dict[str, float]]] = {metric: [] for metric in objective.metrics}
    for seed in range(config.seeds):
        scores = held_out_scores(objective, objective.test(np.zeros(1, np.int32), seed))
        for metric, values in scores.items():
            found[metric].append(values)
    return found


def fitted(config: ReferenceConfig, data: Dataset, model: str) -> dict[str, list[dict[str, float]]]:
    """A model of scikit-learn for each metric by itself, on the last training rows."""
    train, sparse = data.schema.num_train, np.asarray(data.sparse)
    users, dense = users_of(data.schema, sparse), np.asarray(data.dense, np.float32)
    found = {}
    for metric in METRICS[config.model.head]:
        targets, where = everywhere(np.asarray(data.labels), metric)
        features = encode(
            sparse,
            targets,
            where,
            data.schema.num_ids,
            train,
            follow=config.training.held_out == "progressive",
        )
        features = np.concatenate([features, dense], axis=1)
        own = np.flatnonzero(where[:train])[-config.rows :]
        test = train + np.flatnonzero(where[train:])
        found[metric] = [
            scores_of(p, targets[test], None if users is None else users[test])
            for p in predictions(model, features[own], targets[own], features[test], config.seeds)
        ]
    return found


def everywhere(labels: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """`targets_of` for every row: 0 where it is not measured, and where it is."""
    found, where = targets_of(labels, metric)
    targets = np.zeros(len(labels))
    targets[where] = found
    return targets, where


def predictions(
    model: str, features: np.ndarray, targets: np.ndarray, asked: np.ndarray, seeds: int
) -> list[np.ndarray]:
    """Probabilities of ``asked`` for each seed.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier  # pyright: ignore[reportMissingImports]
        from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"models=[{model}] needs scikit-learn: pip install 'autorank[studies]', or write models=[baseline]"
        ) from error
    if model == "logistic":
        mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
        fit = LogisticRegression(max_iter=300).fit((features - mean) / spread, targets)
        return [fit.predict_proba((asked - mean) / spread)[:, 1]]
    return [
        HistGradientBoostingClassifier(random_state=seed, **TREES)
        .fit(features, targets)
        .predict_proba(asked)[:, 1]
        for seed in range(seeds)
    ]
