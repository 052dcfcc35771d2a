"""Groups of DHENs of a recorded grid: which configurations train together, and what has been trained."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.base.metrics import finite_or_none


class Group(NamedTuple):
    """Trained together: rows of the grid ``[p]``, and the number of their seed."""

    rows: tuple[int, ...]
    seed: int


def groups_of(values: Sequence[dict[str, Any]], seeds: int, most: int) -> list[Group]:
    """Groups that cover the grid, first seed first; those of one width hold the same architectures.

    Args:
        values: every configuration.
        seeds: number of seeds of each.
        most: largest number of models of a group. A group has at least all architectures of one width under one pair of
            rates.
    """
    by_width: dict[int, dict[tuple, list[int]]] = {}
    for i, v in enumerate(values):
        rates = tuple(v[k] for k in v if k.startswith("training."))
        by_width.setdefault(v["model.width"], {}).setdefault(rates, []).append(i)
    found = []
    for width in sorted(by_width):
        rates = list(by_width[width].values())
        fits = max(1, most // len(rates[0]))
        found += [
            tuple(i for rows in rates[at : at + fits] for i in rows)
            for at in range(0, len(rates), fits)
        ]
    return [Group(rows, seed) for seed in range(seeds) for rows in found]


class Work:
    """Finished groups in a file of JSON lines; safe for threads.

    The first line says which table they belong to, each other line is a group.

    Raises:
        ValueError: the file belongs to another table.
    """

    def __init__(self, file: Path, belongs: dict[str, Any]) -> None:
        self._file, self._lock = file, threading.Lock()
        self.ne: dict[tuple[int, int], float | None] = {}  # (row, seed) -> NE, None: failed
        self.seconds = 0.0  # wall clock of all calls, compiling included
        lines = []
        if file.exists():
            for text in file.read_text().splitlines():
                try:
                    lines.append(json.loads(text))
                except json.JSONDecodeError:
                    break  # this line was cut off
        if lines and lines[0] != belongs:
            differ = sorted(k for k in belongs if lines[0].get(k) != belongs[k])
            raise ValueError(
                f"{file} belongs to another table ({', '.join(differ)} differ); remove it, or write --work ELSEWHERE"
            )
        for line in lines[1:]:
            self._take(line)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in [belongs, *lines[1:]])

    def _take(self, line: dict[str, Any]) -> None:
        if "call_seconds" in line:
            self.seconds += line["call_seconds"]
            return
        for row, ne in zip(line["rows"], line["ne"], strict=True):
            self.ne[row, line["seed"]] = ne

    def __contains__(self, group: Group) -> bool:
        with self._lock:
            return all((row, group.seed) in self.ne for row in group.rows)

    def add(self, group: Group, ne: np.ndarray) -> None:
        """A finished group's NE ``[p]``; NaN is a failed run."""
        plain = [finite_or_none(v) for v in ne]
        self._append({"rows": group.rows, "seed": group.seed, "ne": plain})

    def add_seconds(self, seconds: float) -> None:
        """Adds the wall seconds of a finished call; those of a killed one are lost."""
        self._append({"call_seconds": round(seconds, 1)})

    def _append(self, line: dict[str, Any]) -> None:
        with self._lock, self._file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
            self._take(line)
