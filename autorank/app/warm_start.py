"""Which earlier searches warm a search: read when it begins, and from its own ledger ever after."""

import logging
from pathlib import Path
from typing import Any

from autorank.app.settings import SearchConfig
from autorank.base.searched import searched
from autorank.ledger.ledger import Ledger
from autorank.search.warm_start import KIND, Wanted, described, read_earlier, warm_of
from autorank.searchers.base import Warm
from autorank.space.space import Space

LOG = logging.getLogger("autorank")


def warmed_by(
    config: SearchConfig, folder: Path, space: Space
) -> tuple[list[dict[str, Any]], Warm | None]:
    """The earlier searches of a run, and what its searcher is warmed by.

    Raises:
        ValueError: an earlier search cannot warm this one, and why.
    """
    earlier, plan = earlier_searches(config, folder, space), config.search
    return earlier, warm_of(earlier, space, num_first=plan.warm_first, goal=plan.goal)


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
