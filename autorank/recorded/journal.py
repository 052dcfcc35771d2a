"""The journal of a recorded table: one line a run, written as the run ends, so that a kill loses what is under way.

A line is the CRC-32 of its text in hexadecimal digits, a blank, and strict JSON. The first line (`Header`) says what is
recorded, a line ``session`` what records from there on, any other line is a `Run`. The file only grows. A line that was
cut off, or that its checksum does not fit, counts for nothing: it is reported, and its run is recorded again.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from autorank.ledger.locks import locked
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps

FORMAT = "autorank journal of a recorded table, 1"


class Header(NamedTuple):
    """What every run of a journal has in common."""

    identity: dict[str, str]  # whatever can change an outcome; journals of one table agree in it
    # `metrics`, `num_windows`, `space` (YAML), `data_fingerprint`, `settings`, `slices` where there are some, ...: see
    # `autorank.app.record_job`.
    about: dict[str, Any]


class Run(NamedTuple):
    """One training run; a failed one keeps the windows that it reached."""

    number: int  # of the configuration; 0 is the baseline
    repeat: int  # of the seed: 0, 1, ...
    seed: int  # of the training
    curve: np.ndarray  # window NE, float32 [t, q]; NaN where not reached
    ne: tuple[
        float, ...
    ]  # of each metric over all rows of the pass, each scored before it was learned from
    flops: float  # forward FLOPs a row, dense part
    rows: int  # of the log that it has seen
    failed: str  # "" or the reason
    seconds: float  # of training
    compile_seconds: float
    at: float  # seconds from the start of its session until it was written
    session: int = 0  # of `Content.sessions`
    # Mean log loss of each slice of a window, float32 [t, s]; None where the header names no slices.
    slices: np.ndarray | None = None


class Content(NamedTuple):
    """What a journal holds."""

    header: Header
    sessions: list[dict[str, Any]]
    runs: dict[tuple[int, int], Run]  # by number and repeat; the first one that was written
    broken: list[int]  # lines, from 1 on, that could not be read
    twice: int  # runs that were there already


class Journal:
    """A journal that is written; one process at a time. Use it as a context manager.

    Args:
        path: of the file; made if it is not there.
        header: of the table.

    Raises:
        ValueError: the file belongs to another table, is damaged in its first line, or is written by another process.
    """

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(locked(path))
            if not path.exists():
                write_atomically(path, _line({"format": FORMAT} | header._asdict()))
            self.content = read_journal(path)
            refuse_other_table(path, self.content.header, header)
            self._stream = stack.enter_context(path.open("ab"))
            if not path.read_bytes().endswith(b"\n"):
                self._stream.write(b"\n")  # ends a line that was cut off
            self._open = stack.pop_all()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            self.sync()

    def start_session(self, session: Mapping[str, Any]) -> None:
        """Says what records the runs from here on."""
        self.content.sessions.append(dict(session))
        self._write({"session": session})

    def add(self, run: Run) -> None:
        """Writes a run of the present session; it survives the end of this process."""
        run = run._replace(session=len(self.content.sessions) - 1)
        # The shortest digits that give each float32 back.
        values = run._asdict() | {"curve": _shortest(run.curve)}
        del values["session"], values["slices"]
        if run.slices is not None:
            values["slices"] = _shortest(run.slices)
        self._write(values)
        self.content.runs.setdefault((run.number, run.repeat), run)

    def take(self, sessions: Sequence[Mapping[str, Any]], runs: Iterable[Run]) -> int:
        """Adds what was recorded elsewhere and is not here yet; returns the number of new runs."""
        new = [run for run in runs if (run.number, run.repeat) not in self.content.runs]
        for place in sorted({run.session for run in new}):
            self.start_session(sessions[place])
            for run in new:
                if run.session == place:
                    self.add(run)
        self.sync()
        return len(new)

    def sync(self) -> None:
        """Brings the file to the disk, so that it survives the end of the machine too."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _write(self, value: Mapping[str, Any]) -> None:
        self._stream.write(_line(value).encode())
        self._stream.flush()


def read_journal(path: Path) -> Content:
    """What a journal holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no journal, or damaged in its first line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; it is written by experiments.record_table")
    first, *rest = path.read_bytes().split(b"\n")
    head = _read(first)
    if head is None or head.get("format") != FORMAT:
        raise ValueError(
            f"{path}: its first line is not that of a journal ({FORMAT!r}); name another folder, or move the file away"
        )
    content = Content(Header(head["identity"], head["about"]), [], {}, [], 0)
    shapes = shapes_of(head["about"])
    twice = 0
    for place, text in enumerate(rest, start=2):
        if not text:
            continue
        value = _read(text)
        if value is not None and "session" in value:
            content.sessions.append(value["session"])
            continue
        run = _run(value, shapes, len(content.sessions) - 1)
        if run is None:
            content.broken.append(place)
        elif (run.number, run.repeat) in content.runs:
            twice += 1
        else:
            content.runs[run.number, run.repeat] = run
    return content._replace(twice=twice)


def shapes_of(about: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Shapes of the arrays of a run: ``curve``, and ``slices`` where the table has some."""
    found = {"curve": (about["num_windows"], len(about["metrics"]))}
    if about.get("slices"):
        found["slices"] = about["num_windows"], about["slices"]["count"]
    return found


def refuse_other_table(where: Path, known: Header, wanted: Header) -> None:
    """Refuses to mix two tables.

    Raises:
        ValueError: the identities differ; the message names the items.
    """
    keys = known.identity.keys() | wanted.identity.keys()
    differ = sorted(k for k in keys if known.identity.get(k) != wanted.identity.get(k))
    if differ:
        raise ValueError(
            f"{where} belongs to another table: {', '.join(differ)} differ; write another name=, or move it away"
        )


def _line(value: Mapping[str, Any]) -> str:
    text = dumps(value)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _read(line: bytes) -> dict[str, Any] | None:
    """The JSON of a line, or None if it is not whole."""
    digits, _, text = line.partition(b" ")
    try:
        if int(digits, 16) != zlib.crc32(text):
            return None
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _run(
    value: dict[str, Any] | None, shapes: Mapping[str, tuple[int, int]], session: int
) -> Run | None:
    """A line's run, or None if it is none of this table."""
    wanted = set(Run._fields) - {"session", "slices"} | shapes.keys()
    if value is None or session < 0 or value.keys() != wanted:
        return None
    # null becomes NaN
    arrays = {name: np.array(value[name], np.float64).astype(np.float32) for name in shapes}
    if any(arrays[name].shape != shape for name, shape in shapes.items()):
        return None
    if len(value["ne"]) != shapes["curve"][1]:
        return None
    ne = tuple(float("nan") if v is None else float(v) for v in value["ne"])
    own: dict[str, Any] = value | arrays | {"ne": ne, "session": session}
    return Run(**own)


def _shortest(curve: np.ndarray) -> list[list[float]]:
    """A float32 matrix as numbers with few digits that read back as the same float32."""
    return [[float(str(v)) for v in row] for row in np.asarray(curve, np.float32)]
