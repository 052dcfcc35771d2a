"""Reading a W&B run that was kept offline, from the ``.wandb`` file that W&B writes beside it.

The file is a log in LevelDB's format behind a header of seven bytes; its records are W&B's protobuf messages, which are
parsed by W&B's own classes. The frames are read here, because newer packages of W&B have no Python reader: the program
that syncs is compiled. Nothing is unpickled and nothing is executed.

Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

import functools
import importlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b":W&B" + struct.pack("<HB", 0xBEE1, 0)  # with the version of the format
BLOCK = 32 * 1024
FRAME = struct.Struct("<IHB")  # checksum, length, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class WandbRun(NamedTuple):
    """A run as W&B knows it."""

    id: str
    place: str  # its folder, or where it is on a server
    config: dict[str, Any]
    summary: dict[str, Any]  # nested values have dotted names
    history: list[dict[str, Any]]  # one for each call of ``log``, oldest first


def records(data: bytes) -> Iterator[bytes]:
    """The bytes of each whole record; a last one that was cut off, as by ``kill -9``, counts for nothing.

    Raises:
        ValueError: this is no such file, or it is damaged before its end.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("it does not begin as W&B's offline files do")
    at, parts = len(MAGIC), []
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < FRAME.size:  # the rest of a block is empty
            at += left
            continue
        start = at + FRAME.size
        if start > len(data):
            return
        checksum, length, kind = FRAME.unpack(data[at:start])
        content = data[start : start + length]
        if len(content) < length:
            return
        if zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"it is damaged at byte {at}")
        parts = [content] if kind in (WHOLE, FIRST) else [*parts, content]
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
        at = start + length


def read_file(path: Path) -> WandbRun:
    """One session of a run.

    Raises:
        ValueError: the file is damaged, or has no run.
        OSError: it cannot be read.
    """
    from google.protobuf.message import DecodeError

    # Its classes are made as it is imported.
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    run = WandbRun("", str(path.parent), {}, {}, [])
    for content in records(path.read_bytes()):
        record = messages.Record()
        try:
            record.ParseFromString(content)
        except DecodeError as error:
            raise ValueError("a record of it is none of W&B's") from error
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = run._replace(id=record.run.run_id)
            run.config.update(items(record.run.config.update))
        elif kind == "config":
            run.config.update(items(record.config.update))
        elif kind == "summary":
            run.summary.update(items(record.summary.update))
            for removed in record.summary.remove:
                run.summary.pop(name_of(removed), None)
        elif kind == "history":
            run.history.append(items(record.history.item))
    if not run.id:
        raise ValueError("it holds no run yet")
    return run


def items(found: Iterable[Any]) -> dict[str, Any]:
    """Names and values of messages that have a key and JSON."""
    return {name_of(item): json.loads(item.value_json) for item in found}


def name_of(item: Any) -> str:
    """The name of a value; the parts of a nested one are joined by dots."""
    return item.key or ".".join(item.nested_key)


def joined(sessions: Iterable[WandbRun]) -> list[WandbRun]:
    """Runs from their sessions: a search that was resumed offline leaves a folder for each, named by its time."""
    found: dict[str, list[WandbRun]] = {}
    for session in sessions:
        found.setdefault(session.id, []).append(session)
    in_order = [sorted(own, key=lambda run: Path(run.place).name) for own in found.values()]
    return [functools.reduce(continued, own) for own in in_order]


def continued(old: WandbRun, new: WandbRun) -> WandbRun:
    """A run with one more session."""
    return WandbRun(
        old.id,
        old.place,
        old.config | new.config,
        old.summary | new.summary,
        [*old.history, *new.history],
    )


def from_server(run: Any, place: str, keys: Iterable[str]) -> WandbRun:
    """A run of `wandb.Api`, with the rows of its history that have all of these keys.

    Args:
        run: what ``wandb.Api().runs(...)`` gives.
        place: where it is, for tables.
        keys: of the history; nothing else is fetched.
    """
    summary = getattr(run.summary, "_json_dict", run.summary)
    rows = run.scan_history(keys=list(keys))
    return WandbRun(run.id, place, dict(run.config), dict(summary), [dict(row) for row in rows])
