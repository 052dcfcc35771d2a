"""Written results of a study: its rows, and what made them."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from autorank.studies.findings import ALL
from autorank.studies.intervals import Difference
from autorank.studies.study import Study

SIGNS = {"+": 1, "-": -1, "0": 0}


class Key(NamedTuple):
    """What a row is about."""

    arm: str  # or the words of a contrast
    table: str  # a name, or `ALL`
    measure: str


class Row(NamedTuple):
    """One row."""

    mean: float
    difference: Difference


class Written(NamedTuple):
    """``experiments/results/studies/NAME.csv`` and ``NAME.json``, with the study as its file has it now."""

    name: str
    study: Study
    rows: dict[Key, Row]
    made_by: dict[str, Any]

    @property
    def lead(self) -> str:
        """The measure that the study is about."""
        return self.made_by["study"]["measures"][0]

    @property
    def tables(self) -> list[str]:
        """Names of the tables, in order."""
        return [name for name in dict.fromkeys(key.table for key in self.rows) if name != ALL]

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in order."""
        return list(self.made_by["study"]["arms"])

    @property
    def contrasts(self) -> list[str]:
        """The words of the contrasts, in order."""
        return list(self.made_by["study"]["contrasts"])

    def at(self, arm: str, table: str = ALL, measure: str = "") -> Row:
        """The row of an arm or a contrast, of the lead measure unless another is named."""
        return self.rows[Key(arm, table, measure or self.lead)]


def read_written(path: Path, study: Study) -> Written:
    """The results in a CSV file and in the JSON file beside it.

    Raises:
        ValueError: they are of other arms or contrasts than the study has now, or the study's title says what they do
            not show.
    """
    with path.open(newline="") as stream:
        rows = {
            Key(row["arm"], row["table"], row["measure"]): Row(
                _number(row["mean"]),
                Difference(*(_number(row[name]) for name in ("difference", "low", "high"))),
            )
            for row in csv.DictReader(stream)
        }
    made_by = json.loads(path.with_suffix(".json").read_text())
    written = Written(path.stem, study, rows, made_by)
    for part in ("arms", "contrasts"):
        if json.loads(json.dumps(getattr(study, part))) != made_by["study"][part]:
            raise ValueError(
                f"{path} is of other study.{part} than configs/study/{path.stem}.yaml has: "
                f"python -m experiments.study study={path.stem} write=true"
            )
    _refuse_untrue_title(written)
    return written


def _refuse_untrue_title(written: Written) -> None:
    for words, sign in written.study.shows.items():
        difference = written.at(words).difference
        if difference.sign != SIGNS[sign]:
            raise ValueError(
                f"study={written.name}: its title rests on '{words}' being {sign}, but the results say "
                f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]; write another title"
            )


def _number(text: str) -> float:
    return float(text) if text else math.nan
