"""Written results of a study: its rows, and what made them."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from autorank.studies.findings import ALL
from autorank.studies.intervals import Difference
from autorank.studies.study import Study


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
    def words(self) -> str:
        """What the lead measure is called in a sentence."""
        return self.study.MEASURES[self.lead].words

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

    def shown(self, words: str) -> Difference:
        """The difference that an entry of `Study.shows` is about: of a contrast, or ``CONTRAST @ TABLE``."""
        contrast, _, table = words.partition(" @ ")
        return self.at(contrast, table or ALL).difference

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
    for words, claim in written.study.shows.items():
        difference = written.shown(words)
        if not bears(difference, claim):
            raise ValueError(
                f"study={written.name}: its title rests on '{words}' being {claim}, but the results say "
                f"{difference.text}; write another title"
            )


def bears(difference: Difference, claim: str) -> bool:
    """Whether an interval bears a claim: ``> 0``, ``< 0.2``, several of these with a comma, or ``not shown``.

    Raises:
        ValueError: a claim of another form.

    Examples:
        >>> d = Difference(0.2, 0.1, 0.3)
        >>> bears(d, "> 0, < 0.5"), bears(d, "> 0.15"), bears(d, "not shown")
        (True, False, False)
    """
    if claim == "not shown":
        return difference.low <= 0 <= difference.high
    parts = [re.fullmatch(r"\s*([<>])\s*(-?\d*\.?\d+)\s*", part) for part in claim.split(",")]
    if not all(parts):
        raise ValueError(f"study.shows: {claim!r} is no claim; write '> 0', '< 0' or 'not shown'")
    return all(
        difference.low > float(part[2]) if part[1] == ">" else difference.high < float(part[2])
        for part in parts
        if part
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan
