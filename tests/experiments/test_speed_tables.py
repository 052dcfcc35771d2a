"""The tables of docs/performance.md are those of the committed results, and say short where it is short."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.speed import tables
from experiments.speed.figures import Target

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.speed.tables", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "target, at_most, median, expected",
    [
        (3.0, False, 2.9, ">= 3 **short**"),
        (3.0, False, 3.0, ">= 3 met"),
        (1.2, True, 1.3, "<= 1.2 **short**"),
        (1.2, True, 1.2, "<= 1.2 met"),
        (None, False, 1.0, ""),
    ],
)
def test_verdict(target, at_most, median, expected):
    declared = None if target is None else Target(target, at_most)
    assert tables.verdict(declared, median) == expected


def test_a_page_without_a_place_is_refused():
    with pytest.raises(SystemExit, match="no place for training"):
        tables.filled("# nothing")
