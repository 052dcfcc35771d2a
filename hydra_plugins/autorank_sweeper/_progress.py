"""Log lines on a sweep's progress."""

import logging
from pathlib import Path
from typing import NamedTuple

from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep

LOG = logging.getLogger(__name__)


def log_start(sweep: Sweep, searcher: str, folder: Path) -> None:
    """Logs what is searched, how, and how to resume it."""
    known, size = len(sweep.trials()), sweep.space.cardinality()
    LOG.info(
        "%s: %d decisions, %s configurations, %s; %s",
        sweep.ledger.path,
        sweep.space.num_decisions,
        f"{size:,}" if size < 10**9 else f"{float(size):.2e}",
        "all of them are run"
        if sweep.rules.in_order
        else f"{sweep.rules.trials} trials by searcher={searcher}",
        f"resuming: {known} trials are there"
        if known
        else f"to resume a stopped sweep add hydra.sweep.dir={folder}",
    )


class Progress(NamedTuple):
    """Logs each trial that ends, and how far the sweep is."""

    sweep: Sweep

    def __call__(self, trial: Trial) -> None:
        """Logs one trial."""
        best = self.sweep.best()
        LOG.info(
            "trial %d %s%s; %d of %d, best %s",
            trial.id - 1,
            "failed: " + trial.reason
            if trial.status == "failed"
            else f"returned {trial.quality:g}",
            "" if trial.cost is None else f" at cost {trial.cost:g}",
            sum(t.status != "proposed" for t in self.sweep.trials()),
            min(self.sweep.rules.trials, self.sweep.space.cardinality()),
            "none yet" if best is None else f"{best.quality:g} (trial {best.id - 1})",
        )
