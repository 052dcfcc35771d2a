"""What all data sources share: their common settings and their registry."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autorank.base.records import location, require, require_range
from autorank.base.registry import Registry
from autorank.data.format.source import Source


@dataclass(frozen=True)
class DataConfig:
    """How any log is prepared; each source has a record of its own with more."""

    source: str = ""
    folder: str = location("data_cache")  # prepared arrays go to <folder>/<source>-<fingerprint>
    train_fraction: float = 0.8  # the rest, last in time, is the final test
    min_count: int = 2  # categorical values seen less often in training share the id "unknown"
    max_bad_share: float = 0.01  # refuse the source when more rows than this share are broken
    encoding: str = (
        "vocabulary"  # vocabulary (of the training rows), or hash: ids by a hash that stays
    )
    hash_size: int = 100_000  # hash: buckets of each categorical field

    def __post_init__(self):
        SOURCES.require_own_name(self)
        require("data.encoding", self.encoding, ("vocabulary", "hash"))
        require_range("data.hash_size", self.hash_size, 1, 1 << 30)
        require_range("data.train_fraction", self.train_fraction, 0.05, 0.99)
        require_range("data.max_bad_share", self.max_bad_share, 0.0, 1.0)


def optional_path(text: str | None) -> Path | None:
    """A setting that names a file, as a path; None stays None."""
    return None if text is None else Path(text)


class MakeSource(Protocol):
    """A source's factory."""

    def __call__(self, settings: Any, /) -> Source:
        """The raw log by a record of its own type."""
        ...


SOURCES: Registry[MakeSource] = Registry("data", field="source")
