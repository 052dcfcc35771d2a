"""The registry of data sources, and the settings that they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from autorank.base.records import location, require, require_range
from autorank.base.registry import Registry
from autorank.data.format.source import Source


@dataclass(frozen=True)
class DataConfig:
    """How a log is prepared; the settings record of each source adds its own fields."""

    source: str = ""
    folder: str = location("data_cache")  # prepared arrays go to <folder>/<source>-<fingerprint>
    train_fraction: float = 0.8  # the rest, last in time, is the test set
    min_count: int = 2  # values in fewer training rows share the id "unknown"
    max_bad_share: float = 0.01  # largest accepted share of broken rows
    encoding: str = "vocabulary"  # vocabulary (of the training rows), or hash (a stable hash)
    hash_size: int = 100_000  # buckets per categorical field with encoding=hash

    def __post_init__(self):
        SOURCES.require_own_name(self)
        require("data.encoding", self.encoding, ("vocabulary", "hash"))
        require_range("data.hash_size", self.hash_size, 1, 1 << 30)
        require_range("data.train_fraction", self.train_fraction, 0.05, 0.99)
        require_range("data.max_bad_share", self.max_bad_share, 0.0, 1.0)


def optional_path(text: str | None) -> Path | None:
    """The path that a setting names; None stays None."""
    return None if text is None else Path(text)


@runtime_checkable
class DeriveForScoring(Protocol):
    """Computes a model's features from the raw columns of a log, for scoring."""

    def __call__(self, columns: dict[str, Any], /) -> tuple[Mapping[str, Any], dict[int, str]]:
        """The features [n] by name, and the rows that cannot be scored, row -> reason."""
        ...


@runtime_checkable
class MakeSource(Protocol):
    """Makes a source from its settings."""

    def __call__(self, settings: Any, /) -> Source:
        """The raw log; ``settings`` is the record registered with the source."""
        ...


SOURCES: Registry[MakeSource] = Registry("data", field="source")
