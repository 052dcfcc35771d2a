"""W&B's offline files as a test reads them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from autorank.comparison.wandb_file import records

LONGEST = 60.0  # seconds


def messages(path: Path, kind: str) -> Iterator[Any]:
    """The messages of one kind in a ``.wandb`` file."""
    for content in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == kind:
            yield getattr(record, kind)


def written(folder: Path) -> list[Path]:
    """The ``.wandb`` files below a folder, oldest first, once W&B has written them whole.

    A run may have ended a moment before W&B's own process has flushed its file.
    """
    deadline = time.monotonic() + LONGEST
    while True:
        found = [p for p in folder.rglob("*.wandb") if p.parent.name != "latest-run"]
        if all(any(messages(path, "exit")) for path in found) or time.monotonic() > deadline:
            return sorted(found, key=lambda path: path.stat().st_mtime_ns)
        time.sleep(0.05)
