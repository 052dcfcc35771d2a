"""``optimization_results.yaml`` and the last line of the log: the outcome of a sweep."""

import logging
from pathlib import Path
from typing import Any

import yaml

from autorank.ledger.safe_write import write_atomically
from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper._space import SweptSpace

LOG = logging.getLogger(__name__)


def save_results(folder: Path, sweep: Sweep, swept: SweptSpace) -> None:
    """Writes ``optimization_results.yaml`` beside the jobs and logs the best trial, also if the sweep was stopped."""
    results = outcome(sweep, swept)
    text = yaml.safe_dump(results, sort_keys=False)
    try:
        write_atomically(folder / "optimization_results.yaml", text)
    except OSError as error:
        LOG.warning("cannot write optimization_results.yaml: %s", error)
    best, ended, failed = sweep.best(), results["trials"], results["failed"]
    if best is not None:
        LOG.info(
            "best of %d trials (%d failed): %s returned %g%s. Each trial was run once: repeat the best few before "
            "relying on them",
            ended,
            failed,
            " ".join(swept.overrides(best.config)),
            best.quality,
            "" if best.cost is None else f" at cost {best.cost:g}",
        )
    elif ended:
        last = [t for t in sweep.trials() if t.status != "proposed"][-1]
        LOG.error("none of %d trials gave a result; the last one: %s", ended, last.reason)


def outcome(sweep: Sweep, swept: SweptSpace) -> dict[str, Any]:
    """The content of ``optimization_results.yaml``."""

    def entry(trial: Trial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        overrides = swept.overrides(trial.config)
        number = trial.id - 1
        return {
            "trial": number,
            "overrides": overrides,
            "quality": trial.quality,
            "cost": trial.cost,
        }

    trials, own = sweep.trials(), tuple(sweep.space.baseline)
    baseline = (t for t in trials if t.config == own and t.quality is not None)
    return {
        "name": "autorank",
        "ledger": str(sweep.ledger.path),
        "trials": sum(t.status != "proposed" for t in trials),
        "failed": sum(t.status == "failed" for t in trials),
        "best": entry(sweep.best()),
        "baseline": entry(next(baseline, None)),
        "front": [entry(t) for t in sweep.front()] if any(t.cost for t in trials) else None,
    }
