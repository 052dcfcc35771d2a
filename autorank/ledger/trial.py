"""A trial: one row of the ledger."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from autorank.ledger.strict_json import dumps


class Trial(NamedTuple):
    """A configuration, where it was proposed, and what became of it."""

    id: int
    # seed_noise, pilot, round, promotion, final, confirmation; sweep.
    stage: str
    # Number of the batch within the stage; of a promotion that of the round it continues.
    round: int
    # Place within the batch.
    position: int
    config: tuple[int, ...]
    seed: int
    # Share of the training rows.
    fidelity: float
    # NE gain in percent and log FLOPs ratio, as predicted; quality and cost in the job's units in a sweep.
    predicted: list[float | None] | None
    # proposed, finished, failed.
    status: str
    # Why it failed.
    reason: str
    # The label: NE gain in percent against the baseline, lower is better.
    quality: float | None
    # log(FLOPs / baseline FLOPs).
    cost: float | None
    # Curve [t][q] with null for NaN, ne, flops, num_rows, seconds, ...
    outcome: dict[str, Any] | None
    # Unix seconds.
    proposed_at: float
    finished_at: float | None
    # How many times the configuration was promoted before: 0 but in promotions.
    rung: int = 0


COLUMNS = ", ".join(Trial._fields)


def trial_of(row: tuple) -> Trial:
    """A row of `COLUMNS`, with its JSON read."""
    trial = Trial(*row)
    config, predicted, outcome = row[4], row[7], row[12]
    return trial._replace(
        config=tuple(json.loads(config)),
        predicted=None if predicted is None else json.loads(predicted),
        outcome=None if outcome is None else json.loads(outcome),
    )


def proposal_rows(
    batch: tuple[str, int, int],
    configs: Any,
    seeds: Iterable[int],
    fidelity: float,
    predicted: Any,
) -> list[tuple]:
    """What a batch of proposals writes: stage, round, rung, position, config, seed, fidelity, predicted, proposed_at.

    Raises:
        ValueError: numbers of configurations, seeds and predictions differ.
    """
    configs, seeds = [list(map(int, c)) for c in configs], list(map(int, seeds))
    forecasts = [None] * len(configs) if predicted is None else [dumps(p) for p in predicted]
    if not len(configs) == len(seeds) == len(forecasts):
        raise ValueError(
            f"{batch[0]} {batch[1]}: {len(configs)} configs, {len(seeds)} seeds, "
            f"{len(forecasts)} predictions"
        )
    now = time.time()
    return [
        (*batch, i, dumps(c), s, float(fidelity), p, now)
        for i, (c, s, p) in enumerate(zip(configs, seeds, forecasts, strict=True))
    ]


def result_row(outcome: Mapping[str, Any], quality: float | None, cost: float | None) -> tuple:
    """What a result writes: status, reason, quality, cost, outcome, finished_at.

    An outcome with a reason under "failed", or a quality that is not finite, is a failed trial.
    """
    quality, cost = finite(quality), finite(cost)
    reason = str(outcome.get("failed") or "")
    if quality is None and not reason:
        reason = "its label is not finite"
    status, quality = ("failed", None) if reason else ("finished", quality)
    return status, reason, quality, cost, dumps(outcome), time.time()


def finite(value: float | None) -> float | None:
    """The value, or None if it is not a finite number."""
    return None if value is None or not math.isfinite(value) else float(value)
