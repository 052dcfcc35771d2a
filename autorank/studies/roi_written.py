"""The committed rows of the study of returns: one file for all logs, in which a run replaces the rows of its own."""

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.app.provenance import provenance, write_rows
from autorank.base.records import plain
from autorank.studies.roi_cells import Origin, Row
from autorank.studies.roi_settings import RoiConfig

TEXT = ("data", "searcher", "reason", "ab_shown_after")


class Written(NamedTuple):
    """What is committed."""

    rows: list[Row]
    days: list[Row]
    made_by: dict[str, Any]  # by data set


def places(results: Path) -> tuple[Path, Path]:
    """The files of cells and of days."""
    return results / "roi.csv", results / "roi_days.csv"


def read_written(results: Path) -> Written:
    """What the files say; nothing where there are none."""
    cells, days = places(results)
    if not cells.exists():
        return Written([], [], {})
    made_by = json.loads(cells.with_suffix(".json").read_text())
    return Written(read_rows(cells), read_rows(days), made_by)


def read_rows(path: Path) -> list[Row]:
    """A CSV's rows with numbers as numbers; empty numbers are NaN."""
    with path.open(newline="") as stream:
        return [{k: value_of(k, v) for k, v in row.items()} for row in csv.DictReader(stream)]


def value_of(name: str, text: str) -> Any:
    """A cell's value."""
    if name in TEXT:
        return text
    return math.nan if text == "" else float(text)


def put(
    cfg: RoiConfig,
    rows: Sequence[Row],
    days: Sequence[Row],
    command: str,
    origins: Mapping[str, Sequence[Origin]],
) -> None:
    """Writes the rows of a run's logs in place of those there are, with what made them.

    Args:
        cfg: of the run.
        rows: of all cells.
        days: of the finished ones.
        command: of the run.
        origins: by log, those of its finished searches, which may have run elsewhere than this program.
    """
    results = Path(cfg.results)
    known, (cells_path, days_path) = read_written(results), places(results)
    kept = [[r for r in old if r["data"] not in cfg.roi.data] for old in (known.rows, known.days)]
    own = {"command": command, "plan": plain(cfg.roi)} | provenance()
    made_by = known.made_by | {
        name: own
        | {"log": [o for o in cfg.logs[name] if "path" not in o]}
        | {"origins": [[*o, n] for o, n in Counter(origins[name]).most_common()]}
        for name in cfg.roi.data
    }
    write_rows(cells_path, [*kept[0], *rows], made_by)
    write_rows(days_path, [*kept[1], *days], {"cells": cells_path.name})
