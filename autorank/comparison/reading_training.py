"""Models that `experiments.train` trained, as a comparison sees them: every seed of a folder is a run."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.records import digest, flatten
from autorank.comparison.finding import RESULT
from autorank.comparison.pairing import held_out_losses
from autorank.comparison.result import Course, LeftOut, Result, number, varies, why

# How many seeds there are, and what is kept, is no difference between models.
OUTSIDE = ("seeds", "export")


def read_training(folder: Path) -> list[Result] | LeftOut:
    """Reads a folder with the result of a training, which is written when all of its seeds are done."""
    try:
        result = json.loads((folder / RESULT).read_text())
        return [result_of(folder, result, entry) for entry in result["runs"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return LeftOut(folder, f"its {RESULT} is of another format ({why(error)})")


def result_of(folder: Path, result: Mapping[str, Any], entry: Mapping[str, Any]) -> Result:
    """One seed. It has a held-out NE of the first metric if it did not fail and saw the whole log."""
    config = flatten(result["config"])
    metric, seed = str(result["metrics"][0]), int(entry["seed"])
    of_data = {k: v for k, v in config.items() if k.startswith("data.") and k != "data.folder"}
    tested = next((t[metric] for t in result["test"] if t["seed"] == seed), {})
    counting = {k: v for k, v in config.items() if varies(k) and k not in (*OUTSIDE, *of_data)}
    return Result(
        folder=folder,
        data=f"{config['data.source']}, single models",
        fingerprint=digest(of_data),
        metric=metric,
        seed=seed,
        settings=counting,
        data_settings=of_data,
        idle={},
        machine={k: v for k, v in config.items() if not varies(k)},
        values={
            "gain": math.nan,
            "label": math.nan,
            "ne": number(tested.get("ne")),
            **held_out_losses(tested),
        },
        noise=math.nan,
        course=Course(np.zeros(0), np.zeros(0)),
        front=np.zeros((0, 2)),
        summary={k: v for k, v in result.items() if k not in ("runs", "test", "config")}
        | {"trained_examples": entry.get("num_rows"), "status": "finished"},
    )
