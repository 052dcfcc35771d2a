"""The journal of a study: a CSV file that grows by one row for each arm, table and split, as fits end.

Beside it (``study.json``) lies what its rows depend on. How many splits or arms there are is no part of that, so that a
study can grow; an arm, a table or a measure whose settings differ is refused. A row that was cut off counts for
nothing, and is computed again.
"""

import csv
import io
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from autorank.ledger.locks import locked
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps

KEYS = ("arm", "table", "split")


class Cell(NamedTuple):
    """One row of the journal by its key."""

    arm: str
    table: str
    split: int


Rows = dict[Cell, dict[str, float]]  # the measures of each row


class Journal:
    """A journal that is written, by one process at a time. Use it as a context manager.

    Args:
        folder: of the run; made if it is not there.
        identity: what the rows depend on, each item by its name in messages.
        measures: names of the numbers of a row.

    Raises:
        ValueError: the folder has rows of other settings, or is written by another process.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], measures: tuple[str, ...]):
        self.path, self.measures = folder / "journal.csv", measures
        folder.mkdir(parents=True, exist_ok=True)
        self._spent = folder / "spent.json"
        with ExitStack() as stack:
            stack.enter_context(locked(self.path))
            _settle(folder / "study.json", dict(identity))
            if not self.path.exists():
                write_atomically(self.path, _line([*KEYS, *measures]))
            self.rows = read_rows(self.path)
            whole = self.path.read_bytes().rfind(b"\n") + 1
            os.truncate(self.path, whole)  # without a row that was cut off
            self._stream = stack.enter_context(self.path.open("a", newline=""))
            self._open = stack.pop_all()
        self._started, self._grew = _cpu_seconds(), False

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            if self._grew:
                write_atomically(self._spent, dumps({"cpu_seconds": self.cpu_seconds}) + "\n")

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of this process since the journal was opened, if rows were added, and of those before it.

        Those of a process that was killed are not known.
        """
        before = json.loads(self._spent.read_text())["cpu_seconds"] if self._spent.exists() else 0.0
        return before + (_cpu_seconds() - self._started if self._grew else 0.0)

    def add(self, cell: Cell, values: Mapping[str, float]) -> None:
        """Writes a row; it survives the end of this process."""
        self._stream.write(_line([*cell, *(repr(float(values[name])) for name in self.measures)]))
        self._stream.flush()
        self._grew = True
        self.rows[cell] = {name: float(values[name]) for name in self.measures}


def read_rows(path: Path) -> Rows:
    """The whole rows of a journal.

    Raises:
        ValueError: the file is no journal, or a row of it is damaged.
    """
    text = path.read_text()
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    if not lines or tuple(lines[0][: len(KEYS)]) != KEYS:
        raise ValueError(f"{path} does not begin with {','.join(KEYS)}; move it away")
    names, rows = lines[0][len(KEYS) :], Rows()
    for number, line in enumerate(lines[1:], start=2):
        try:
            arm, table, split, *values = line
            cell = Cell(arm, table, int(split))
            rows[cell] = dict(zip(names, map(float, values), strict=True))
        except ValueError as error:
            raise ValueError(
                f"{path}: line {number} is damaged; delete it, and its fit is done again"
            ) from error
    return rows


def _settle(path: Path, identity: dict[str, str]) -> None:
    """Compares what is there with what is wanted, and writes both together.

    Raises:
        ValueError: they contradict each other.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    differ = sorted(
        item for item in known.keys() & identity.keys() if known[item] != identity[item]
    )
    if differ:
        raise ValueError(
            f"{path.parent} has rows of other settings: {', '.join(differ)} differ; write another name=, "
            f"or move the folder away"
        )
    write_atomically(path, dumps(known | identity, indent=1) + "\n")


def _line(values: list[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()


def _cpu_seconds() -> float:
    """Of this process, and of those that it has started and that have ended."""
    return sum(os.times()[:4])
