"""What the challenge published of each problem, and its score.

`baseline-100-1.json` (100 suggestions one at a time) and `baseline-16-8.json` (16 rounds of 8) of the challenge's
starter kit (rdturnermtl/bbo_challenge_starter_kit, Apache-2.0) hold, for each of 108 problems: five signature values,
and for each round the median and the mean of random search's best loss so far; ``clip``, the median loss of one random
configuration; ``best``, the lowest loss that any of the organisers' searchers found.

The score is that of `bayesmark.experiment_analysis`, which the leaderboard used: a run's best loss so far, on the scale
where ``best`` is 0 and ``clip`` is 1, clipped to [-1, 1]; the mean over runs, then over problems; 100 (1 - mean).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.comparison.runs import DATA

FOLDER = DATA / "bayesmark"
VISIBLE = "_visible_to_opt"  # the objective that searchers see, and the leaderboard scored


class Protocol(NamedTuple):
    """How many rounds of how many suggestions."""

    name: str
    rounds: int
    batch: int

    @property
    def trials(self) -> int:
        """Evaluations of a run."""
        return self.rounds * self.batch


PROTOCOLS = {p.name: p for p in (Protocol("100x1", 100, 1), Protocol("16x8", 16, 8))}


class Reference(NamedTuple):
    """What is published of a problem."""

    signature: np.ndarray  # [5]
    median: np.ndarray  # of random search's best loss after each round, [rounds]
    mean: np.ndarray  # likewise, of losses clipped at ``clip``
    clip: float
    best: float

    def normed(self, losses: np.ndarray | float) -> np.ndarray:
        """Best losses of runs as the score has them: 0 is ``best``, 1 is ``clip``; clipped to [-1, 1]."""
        scaled = (np.asarray(losses, np.float64) - self.best) / (self.clip - self.best)
        return np.clip(np.where(np.isnan(scaled), np.inf, scaled), -1.0, 1.0)


@cache
def references(protocol: str, folder: Path = FOLDER) -> Mapping[str, Reference]:
    """The published problems by name (``MODEL_DATA_METRIC``), in alphabetical order.

    Args:
        protocol: one of `PROTOCOLS`.
        folder: has the two files of the starter kit.

    Raises:
        FileNotFoundError: the file is not there; the message says where it can be found.
    """
    file = folder / f"baseline-{protocol.replace('x', '-')}.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{file} is not there: put input/{file.name} of github.com/rdturnermtl/bbo_challenge_starter_kit there, or "
            "name another folder in AUTORANK_SHARED_DATA"
        )
    told = json.loads(file.read_text())
    data, signatures = told["data"], told["meta"]["signature"]
    at = data["coords"]["objective"]["data"].index(VISIBLE)
    arrays = {
        k: np.array(data["data_vars"][k]["data"])[..., at]
        for k in ("median", "mean", "clip", "best")
    }
    found = {}
    for i, name in enumerate(data["coords"]["function"]["data"]):
        found[name] = Reference(
            np.array(signatures[name]),
            arrays["median"][:, i],
            arrays["mean"][:, i],
            float(arrays["clip"][i]),
            float(arrays["best"][i]),
        )
    return dict(sorted(found.items()))


def best_so_far(losses: Sequence[float | None], protocol: Protocol) -> np.ndarray:
    """A run's lowest loss after each whole round, float64 ``[rounds so far]``; failures are infinite."""
    values = np.array([np.inf if v is None else v for v in losses], np.float64)
    rounds = len(values) // protocol.batch
    each = values[: rounds * protocol.batch].reshape(rounds, protocol.batch).min(axis=1)
    return np.minimum.accumulate(each) if rounds else each


def score(normed: Mapping[str, np.ndarray]) -> float:
    """100 (1 - loss), the loss being the mean over problems of the mean over runs ``[n]``."""
    return 100.0 * (1.0 - float(np.mean([v.mean() for v in normed.values()])))


def published_random(protocol: str, problems: Sequence[str], folder: Path = FOLDER) -> float:
    """The score that the published means of random search have on some problems, after the last round."""
    known = references(protocol, folder)
    return score({p: known[p].normed(known[p].mean[-1:]) for p in problems})
