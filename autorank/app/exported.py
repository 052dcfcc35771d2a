"""The trained model that a program leaves: saved with all that scoring needs, and measured as saved."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autorank.app.settings import SearchConfig
from autorank.base.measurable import targets_of
from autorank.base.metrics import normalized_entropy
from autorank.data.format.batches import Dataset
from autorank.data.prepare.scoring_files import save_scoring_files
from autorank.objectives.base import Objective
from autorank.serving.export import Scorer, load_model, save_model

LOG = logging.getLogger("autorank")


def export_winner(
    objective: Objective, summary: Mapping[str, Any], data: Dataset, folder: Path
) -> None:
    """Weights, program and encoders of the winner's run with the first seed of the verdict; once."""
    winner = summary["winner"]
    if winner is None or objective.trained is None or (folder / "model.json").exists():
        return
    trained = objective.trained(np.array(winner["choices"], np.int32), summary["seeds"][0])
    save_trained(trained, data, folder, {"run": summary["name"], "config": winner["config"]})


def measure_export(
    folder: Path, data: Dataset, config: SearchConfig, summary: Mapping[str, Any]
) -> dict[str, Any] | None:
    """NE of the exported model on the held-out rows, by metric; None where no model was exported, or none that loads.

    With ``training.held_out=frozen`` it is the NE that the search's test found for that seed. With ``progressive`` the
    test's models go on learning while they are scored, and this is what the exported one does without that.
    """
    scorer = usable(folder)
    if scorer is None:
        return None
    held_out = data.test()
    p = scorer.predict(held_out.sparse, held_out.dense).astype(np.float64)
    labels = np.asarray(held_out.labels, np.float64)
    ne: dict[str, float] = {}
    for q, metric in enumerate(scorer.metrics):
        targets, rows = targets_of(labels, metric)
        ne[metric] = normalized_entropy(p[rows, q], targets)
    return {"seed": summary["seeds"][0], "ne": ne, "held_out": config.training.held_out}


def usable(folder: Path) -> Scorer | None:
    """The exported model; None, with an error in the log, where there is none or it fails its own check."""
    if not (folder / "model.json").exists():
        return None
    try:
        return load_model(folder)
    except ValueError as error:
        # The search and its verdict stand without it.
        LOG.error("the exported model cannot be used: %s", error)
        return None


def save_trained(trained: Any, data: Dataset, folder: Path, description: Mapping[str, Any]) -> None:
    """A trained model with all that scoring raw rows needs."""
    save_scoring_files(data, folder)  # before the model, whose last file says that all is there
    save_model(
        folder,
        trained.predict,
        trained.params,
        trained.rows,
        num_fields=len(data.schema.fields),
        num_dense=len(data.schema.dense),
        metrics=trained.metrics,
        example=(data.test().sparse[:256], data.test().dense[:256]),
        description=description,
    )
