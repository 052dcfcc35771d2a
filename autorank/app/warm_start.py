"""Which earlier searches warm a search: read when it begins, and from its own ledger ever after."""

import logging
from pathlib import Path
from typing import Any

from autorank.app.settings import SearchConfig
from autorank.base.searched import searched
from autorank.ledger.ledger import Ledger
from autorank.search.warm_start import KIND, Wanted, described, read_earlier
from autorank.space.space import Space

LOG = logging.getLogger("autorank")


def earlier_searches(config: SearchConfig, folder: Path, space: Space) -> list[dict[str, Any]]:
    """What warms a search: as copied into its ledger when it began, else read from the earlier ones.

    Raises:
        ValueError: an earlier search cannot warm this one, and why.
    """
    own, paths = folder / "trials.db", config.search.warm_start or ()
    if paths and own.exists():
        with Ledger.read(own) as ledger:
            if copied := ledger.records(KIND):
                return copied[0]
    wanted = Wanted(space, searched(config.search.metric).name, config.search.goal)
    found = [read_earlier(path, wanted, own) for path in paths]
    for record in found:
        LOG.info("warm start: %s", described(record))
    return found


def copy_earlier(ledger: Ledger, earlier: list[dict[str, Any]]) -> None:
    """Keeps what warms a search in its own ledger, where it cannot change any more."""
    if earlier:
        ledger.record(KIND, "all", earlier)
