"""A ledger of format 1 is read as it is and migrated when it is opened for writing; a kill loses nothing."""

import logging
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from autorank.ledger import creation
from autorank.ledger.errors import LedgerFull, LedgerMismatch
from autorank.ledger.ledger import Ledger
from tests.ledger import format_1

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = {"space": "abc", "seed": "0"}
# Id, stage, round as format 1 has it, position, fidelity, status.
ROWS = [
    (1, "seed_noise", 0, 0, 1.0, "finished"),
    (2, "round", 0, 0, 0.2, "finished"),
    (3, "round", 0, 1, 0.2, "finished"),
    (4, "promotion", 1, 0, 0.5, "finished"),
    (5, "promotion", 2, 0, 1.0, "failed"),
    (6, "round", 101, 0, 0.2, "finished"),
    (7, "round", 101, 1, 0.2, "finished"),
    (9, "promotion", 10101, 0, 0.5, "proposed"),
]


@pytest.fixture
def old(tmp_path) -> Path:
    """A search with three rungs that was interrupted while trial 9 was trained."""
    path = tmp_path / "trials.db"
    trials = []
    for number, stage, round_, position, fidelity, status in ROWS:
        outcome = None if status == "proposed" else '{"curve":[[0.1],[null]]}'
        reason, quality = ("why", None) if status == "failed" else ("", -0.1 / number)
        quality = None if status == "proposed" else quality
        trials.append(
            (
                number,
                stage,
                round_,
                position,
                "[1,0]",
                7,
                fidelity,
                "[0.5,null]",
                status,
                reason,
                quality,
                0.25,
                outcome,
                1e9 + number,
                None if status == "proposed" else 2e9,
            )
        )
    meta = [("identity", '{"space": "abc", "seed": "0"}'), ("baseline", "[0,0]")]
    records = [(1, "policy", "0", '{"round":0}'), (4, "rungs", "pilots", '{"rungs":[0.2,0.5,1.0]}')]
    format_1.write(path, meta, records, trials)
    return path


def content(ledger: Ledger) -> tuple:
    kinds = [ledger.records(kind) for kind in ("policy", "rungs")]
    return ledger.trials(), kinds, ledger.get("baseline")


def expected_batches() -> list[tuple]:
    return [
        (1, "seed_noise", 0, 0),
        (2, "round", 0, 0),
        (3, "round", 0, 0),
        (4, "promotion", 0, 1),
        (5, "promotion", 0, 2),
        (6, "round", 101, 0),
        (7, "round", 101, 0),
        (9, "promotion", 101, 1),
    ]


def test_a_reader_reads_it_as_it_is(old):
    before = old.read_bytes()
    with Ledger.read(old) as ledger:
        trials = ledger.trials()
        assert [(t.id, t.stage, t.round, t.rung) for t in trials] == expected_batches()
        assert [t.id for t in ledger.trials("promotion", 0)] == [4, 5]
        assert [t.id for t in ledger.trials("promotion", 0, 2)] == [5]
        assert [t.id for t in ledger.trials(rung=1)] == [4, 9]
        assert trials[4].reason == "why" and trials[-1].status == "proposed"
        assert trials[0].outcome == {"curve": [[0.1], [None]]} and trials[0].predicted == [
            0.5,
            None,
        ]
    assert old.read_bytes() == before


def test_a_writer_migrates_it_once_and_says_so(old, caplog):
    old.chmod(0o640)
    with Ledger.read(old) as reader:
        found = content(reader)
        with caplog.at_level(logging.INFO), Ledger.open(old, IDENTITY) as ledger:
            assert content(ledger) == found
            assert content(reader) == found  # whoever has the old file open reads on
            done = ledger.finish(9, {"curve": [[0.5]]}, -0.5, 0.1)
            assert (done.round, done.rung, done.status) == (101, 1, "finished")
            with pytest.raises(ValueError, match="in the ledger already"):
                ledger.propose("promotion", 101, [[1, 0]], [7], 0.5, rung=1)
            (new,) = ledger.propose("promotion", 101, [[1, 0]], [7], 1.0, rung=2)
            assert (new.id, new.round, new.rung) == (10, 101, 2)
    assert [r.message for r in caplog.records] == [f"{old}: migrated from format 1 to format 2"]
    assert old.stat().st_mode & 0o777 == 0o640
    caplog.clear()
    with caplog.at_level(logging.INFO), Ledger.open(old, IDENTITY) as ledger:
        assert len(ledger.trials()) == len(ROWS) + 1 and ledger.get("identity")["format"] == "2"
    assert not caplog.records
    assert sorted(p.name for p in old.parent.iterdir()) == ["trials.db", "trials.db.lock"]


def test_another_searchs_ledger_is_refused_unchanged(old):
    before = old.read_bytes()
    with pytest.raises(LedgerMismatch, match="its seed"):
        Ledger.open(old, IDENTITY | {"seed": "1"})
    assert old.read_bytes() == before


def test_an_identity_of_an_older_version_is_carried_over_too(old):
    with Ledger.open(old, {"space": "new", "seed": "0"}, lambda found: found | {"space": "new"}):
        pass
    with Ledger.read(old) as ledger:
        assert ledger.get("identity") == {"space": "new", "seed": "0", "format": "2"}
        assert len(ledger.trials()) == len(ROWS)


KILLED = """
import os, signal, sys
from pathlib import Path
from autorank.ledger import creation
from autorank.ledger.ledger import Ledger
last, steps, copy, replace = int(sys.argv[2]), [], creation.copy, Path.replace
def step(function, *arguments):
    if len(steps) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    steps.append(1)
    return function(*arguments)
creation.copy = lambda *a: step(copy, *a)
Path.replace = lambda *a: step(replace, *a)
Ledger.open(sys.argv[1], {"space": "abc", "seed": "0"})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("last", range(5))
def test_a_kill_in_the_middle_loses_nothing(old, last):
    """Before each of three tables, before the new file takes the old one's place, and after it."""
    with Ledger.read(old) as ledger:
        before = content(ledger)
    done = subprocess.run([sys.executable, "-c", KILLED, str(old), str(last)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert old.with_name("trials.db.part").exists() == (last < 4)
    for open_ in (lambda: Ledger.read(old), lambda: Ledger.open(old, IDENTITY)):
        with open_() as ledger:
            assert content(ledger) == before
    assert sorted(p.name for p in old.parent.iterdir()) == ["trials.db", "trials.db.lock"]


def test_a_full_disk_leaves_the_old_one(old, monkeypatch):
    def small(*arguments):
        arguments[1].execute("PRAGMA max_page_count = 1")
        copy(*arguments)

    with Ledger.read(old) as ledger:
        found = content(ledger)
    connection = sqlite3.connect(old)
    with connection:
        rows = [(f"k{i}", "x" * 4000) for i in range(50)]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
    connection.close()
    copy = creation.copy
    monkeypatch.setattr(creation, "copy", small)
    before = old.read_bytes()
    with pytest.raises(LedgerFull, match="Make room"):
        Ledger.open(old, IDENTITY)
    assert old.read_bytes() == before
    monkeypatch.undo()
    with Ledger.open(old, IDENTITY) as ledger:
        assert content(ledger) == found


def test_a_killed_writers_journal_is_undone_before(old):
    """An old version was killed in mid-write: only the journal knows the truth."""
    program = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 2")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE trials SET reason = 'torn'")
connection.executemany("INSERT INTO meta VALUES (?, ?)", [(str(i), "x" * 4000) for i in range(50)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(old)], cwd=ROOT)
    assert old.with_name("trials.db-journal").stat().st_size > 0
    with Ledger.open(old, IDENTITY) as ledger:
        assert [(t.id, t.stage, t.round, t.rung) for t in ledger.trials()] == expected_batches()
        assert {t.reason for t in ledger.trials()} == {"", "why"} and ledger.get("3") is None
    assert not old.with_name("trials.db-journal").exists()
