"""What a prepared folder was made from: hashes of raw files, and whether a folder can be reused."""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

from autorank.data.format.source import Source

LARGE = 1 << 26  # bytes from which a raw file is identified by samples of its contents
MAPPED = 1 << 24  # bytes of a file that are hashed at a time
SAMPLES, SAMPLE = 64, 1 << 14  # number of samples, and bytes of each


def made_from(source: Source, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that determines the prepared rows, as JSON."""
    record = {
        "source": source.name,
        "source_settings": dict(source.settings),
        "columns": source.columns._asdict(),
        "files": {path.name: file_identity(path) for path in source.files},
    }
    return json.loads(json.dumps(record | settings, allow_nan=False))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys by which two records of `made_from` differ."""
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def file_identity(path: Path) -> str:
    """Distinguishes a raw file from others.

    The hash of its contents; for a file of more than `LARGE` bytes, its size, its modification time and the hash of
    samples, because hashing it would take long.
    """
    status = path.stat()
    if status.st_size <= LARGE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek((status.st_size - SAMPLE) * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return f"{status.st_size}-{status.st_mtime_ns}-{digest.hexdigest()}"


def sha256(path: Path) -> str:
    """The hash of a file's contents."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for begin in range(0, size, MAPPED):  # mapping the file avoids a copy
            length = min(MAPPED, size - begin)
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=begin) as content:
                digest.update(content)
    return digest.hexdigest()
