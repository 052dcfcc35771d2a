"""``optimization_results.yaml``: what came out of a sweep, for people and for programs."""

import logging
import os
from pathlib import Path
from typing import Any

import yaml

from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper._space import Swept

LOG = logging.getLogger(__name__)


def save_results(folder: Path, sweep: Sweep, swept: Swept) -> None:
    """``optimization_results.yaml`` beside the jobs, also when the sweep was stopped."""
    best, trials = sweep.best(), sweep.trials()
    own = tuple(sweep.space.baseline)
    failed = [t for t in trials if t.status == "failed"]
    ended = [t for t in trials if t.status != "proposed"]

    def row(trial: Trial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        found: dict[str, Any] = {"trial": trial.id - 1, "overrides": swept.overrides(trial.config)}
        found |= {"quality": trial.quality, "cost": trial.cost}
        return found

    results = {
        "name": "autorank",
        "ledger": str(sweep.ledger.path),
        "trials": len(ended),
        "failed": len(failed),
        "best": row(best),
        "baseline": row(
            next((t for t in trials if own == t.config and t.quality is not None), None)
        ),
        "front": [row(t) for t in sweep.front()] if any(t.cost for t in trials) else None,
    }
    text = yaml.safe_dump(results, sort_keys=False)
    part = folder / "optimization_results.yaml.part"
    try:
        part.write_text(text)
        os.replace(part, folder / "optimization_results.yaml")
    except OSError as error:
        LOG.warning("cannot write optimization_results.yaml: %s", error)
    if best is not None:
        LOG.info(
            "best of %d trials (%d failed): %s gave %g%s. One run each: repeat the best few before believing it",
            len(ended),
            len(failed),
            " ".join(swept.overrides(best.config)),
            best.quality,
            "" if best.cost is None else f" at cost {best.cost:g}",
        )
    elif ended:
        LOG.error("none of %d trials gave a result; the last one: %s", len(ended), ended[-1].reason)
