"""One model from settings to weights."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np

from autorank.app import build
from autorank.app.exported import save_trained
from autorank.app.provenance import provenance
from autorank.app.settings import TrainConfig
from autorank.base.jax_settings import own_settings
from autorank.base.measurable import targets_of
from autorank.base.records import plain
from autorank.base.scored_rows import scores_of
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps
from autorank.objectives.base import Objective
from autorank.training.compact import Setting

LOG = logging.getLogger("autorank")


@own_settings()
def run_training(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Trains one model with one or more seeds, scores the held-out rows, saves the first seed's model."""
    folder.mkdir(parents=True, exist_ok=True)
    data = build.dataset(config.data, LOG.info)
    setting = Setting(config.model, build.hparams(config.training))
    objective = build.listed_objective(config, data, [setting])
    configs = np.zeros((config.seeds, 1), np.int32)
    rows: list[dict[str, Any]] = []
    for seed, outcome in objective.evaluate(configs, range(config.seeds), config.fraction):
        LOG.info(
            "seed %d: %s, %.1f s (+ %.1f s compile), %s rows/s",
            seed,
            outcome.failed
            or " ".join(
                f"{m} NE {v:.5f}" for m, v in zip(objective.metrics, outcome.ne, strict=True)
            ),
            outcome.seconds,
            outcome.compile_seconds,
            f"{outcome.num_rows / max(outcome.seconds, 1e-9):,.0f}",
        )
        write_curve(folder / f"curve-{seed}.csv", objective.metrics, outcome.curve)
        rows.append({"seed": seed} | outcome._asdict() | {"curve": None})
    result: dict[str, Any] = {
        "metrics": objective.metrics,
        "runs": sorted(rows, key=lambda r: r["seed"]),
    }
    result |= {"test": [], "config": plain(config)} | provenance()
    alive = [r["seed"] for r in result["runs"] if not r["failed"]]
    if config.fraction == 1.0 and objective.test is not None and objective.test_labels is not None:
        for seed in alive:
            scores = held_out_scores(objective, objective.test(configs[0], seed))
            result["test"].append({"seed": seed} | scores)
            LOG.info("seed %d held-out: %s", seed, dumps(scores))
    write_atomically(folder / "result.json", dumps(result, indent=1))
    if (
        config.export
        and alive
        and objective.trained is not None
        and not (folder / "model").exists()
    ):
        save_trained(objective.trained(configs[0], alive[0]), data, folder / "model", plain(config))
    return result


def held_out_scores(objective: Objective, predictions: np.ndarray) -> dict[str, dict[str, float]]:
    """What `scores_of` measures, of each metric on the held-out rows."""
    assert objective.test_labels is not None
    scores = {}
    for q, metric in enumerate(objective.metrics):
        targets, rows = targets_of(objective.test_labels, metric)
        users = objective.test_users
        scores[metric] = scores_of(
            predictions[rows, q], targets, None if users is None else users[rows]
        )
    return scores


def write_curve(path: Path, metrics: tuple[str, ...], curve: np.ndarray) -> None:
    """Window NE as CSV, one line a window."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["window", *metrics])
        writer.writerows([i, *map(repr, map(float, values))] for i, values in enumerate(curve))
