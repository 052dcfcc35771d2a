"""Under which group, job type, tags and name W&B lists a run, where neither our settings nor W&B's own say it."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from autorank.app.provenance import package_version
from autorank.app.settings import SearchConfig
from autorank.app.sweep_folder import overridden

MOST_CHARACTERS = 64  # of a tag, by W&B's rule


class Labels(NamedTuple):
    """What W&B groups, colours and filters runs by."""

    group: str
    job_type: str
    tags: tuple[str, ...]
    name: str  # what differs from the other runs of the group


class Launch(NamedTuple):
    """How Hydra started a program; without Hydra nothing is known."""

    experiment: str | None = None  # the option of ``experiment=``
    sweep: bool = False
    # The overrides of a sweep's job that not all of its jobs share; all of them where that is not known.
    differ: tuple[str, ...] = ()


def launch() -> Launch:
    """How this program was started."""
    if not HydraConfig.initialized():
        return Launch()
    hydra = HydraConfig.get()
    chosen = hydra.runtime.choices.get("experiment")
    return Launch(
        None if chosen in (None, "null") else str(chosen),
        hydra.mode == RunMode.MULTIRUN,
        # What the command line gives as one value, all jobs have; a launcher's worker has another command line.
        tuple(text for text in hydra.overrides.task if text not in sys.argv[1:]),
    )


def labels_of(config: SearchConfig, folder: Path, data: str, how: Launch) -> Labels:
    """The labels of a search: grouped by experiment, or by name in a sweep; of the searcher's type; tagged by its data.

    Args:
        config: of the search.
        folder: of the run; its name says what it is, unless a sweeper only counted.
        data: the prepared log's fingerprint.
        how: how the program was started.

    Examples:
        >>> labels_of(SearchConfig(), Path("runs/7"), "0a1b2c3d4e", Launch("toy", True, ("searcher.alpha=1",)))[:2]
        ('search', 'autorank')
    """
    group = config.name if how.sweep else how.experiment or config.name
    source, searcher = config.data.source, config.searcher.name
    name = folder.resolve().name
    if how.sweep and how.differ:
        name = overridden(how.differ)
    elif name.isdigit():
        name = f"{config.name}-seed-{config.search.seed}"
    wanted = (source, f"{source}-{data[:8]}", searcher, how.experiment, version_tag())
    return Labels(group, searcher, tags_of(wanted), name)


def version_tag() -> str:
    """The tag of this version of the library."""
    return f"autorank-{package_version('autorank')}"


def tags_of(wanted: Iterable[str | None]) -> tuple[str, ...]:
    """Tags as W&B takes them: each once, none empty, none too long."""
    return tuple(dict.fromkeys(tag[:MOST_CHARACTERS] for tag in wanted if tag))
