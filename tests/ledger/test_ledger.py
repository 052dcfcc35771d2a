"""The ledger under kills, second writers, damage and a full disk; what it keeps, it keeps exactly."""

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.ledger.errors import LedgerCorrupt, LedgerFull, LedgerMismatch, RunInUse
from autorank.ledger.ledger import Ledger
from autorank.ledger.strict_json import dumps

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = {"space": "abc", "data": "def", "seed": "0"}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "trials.db"


def result(value: float = 0.5, failed: str = "") -> dict:
    return {"curve": [[value]], "ne": [value], "flops": 1.0, "failed": failed}


# --- what is written is what is read --------------------------------------------------------------


def test_a_batch_is_written_before_and_after(path):
    with Ledger.open(path, IDENTITY) as ledger:
        configs, predicted = (
            np.array([[0, 1], [2, 3]], np.int32),
            np.array([[0.1, 0.2], [np.nan] * 2]),
        )
        first, second = ledger.propose("round", 4, configs, [7, 8], 0.5, predicted)
        assert (first.stage, first.round, first.position, first.config) == ("round", 4, 0, (0, 1))
        assert (second.position, second.config, second.seed, second.fidelity) == (1, (2, 3), 8, 0.5)
        assert (first.predicted, second.predicted) == ([0.1, 0.2], [None, None])
        assert first.status == second.status == "proposed"
        assert first.quality is None and first.outcome is None and first.finished_at is None
        curve = np.array([[0.1, np.nan], [np.inf, 0.3]])
        done = ledger.finish(second.id, {"curve": curve, "failed": ""}, -0.25, 0.75)
        assert done == ledger.trials("round", 4)[1]
        assert (done.status, done.quality, done.cost, done.reason) == ("finished", -0.25, 0.75, "")
        assert done.outcome == {"curve": [[0.1, None], ["Infinity", 0.3]], "failed": ""}
        assert done.finished_at is not None and done.finished_at >= done.proposed_at
    with Ledger.open(path, IDENTITY) as ledger:
        assert ledger.trials() == [first, done]


@pytest.mark.parametrize(
    ("failed", "quality", "status", "reason"),
    [
        ("", 0.5, "finished", ""),
        ("out of memory", None, "failed", "out of memory"),
        ("out of memory", 0.5, "failed", "out of memory"),
        ("", None, "failed", "its label is not finite"),
        ("", math.nan, "failed", "its label is not finite"),
        ("", -math.inf, "failed", "its label is not finite"),
    ],
)
def test_without_a_finite_label_a_trial_has_failed(path, failed, quality, status, reason):
    with Ledger.open(path, IDENTITY) as ledger:
        (trial,) = ledger.propose("pilot", 0, [[1]], [0], 1.0)
        done = ledger.finish(trial.id, result(failed=failed), quality, math.nan)
        assert (done.status, done.reason, done.cost) == (status, reason, None)
        assert done.quality == (0.5 if status == "finished" else None)


def test_selection_and_order(path):
    with Ledger.open(path, IDENTITY) as ledger:
        for stage, number in (("round", 1), ("pilot", 0), ("round", 0)):
            ledger.propose(stage, number, [[number], [9]], [0, 1], 1.0)
        assert [(t.stage, t.round, t.position) for t in ledger.trials("round")] == [
            ("round", 1, 0),
            ("round", 1, 1),
            ("round", 0, 0),
            ("round", 0, 1),
        ]
        assert len(ledger.trials()) == 6 and len(ledger.trials("round", 0)) == 2
        assert ledger.trials("final") == [] == ledger.trials("round", 7)
        assert len(ledger.trials(round=0)) == 4


def test_mistakes_of_the_driver_are_refused(path):
    with Ledger.open(path, IDENTITY) as ledger:
        (trial,) = ledger.propose("pilot", 0, [[1]], [0], 1.0)
        with pytest.raises(ValueError, match="pilot 0 is in the ledger already"):
            ledger.propose("pilot", 0, [[2]], [0], 1.0)
        with pytest.raises(ValueError, match="2 configs, 1 seeds"):
            ledger.propose("pilot", 1, [[2], [3]], [0], 1.0)
        ledger.finish(trial.id, result(), 0.5, 0.0)
        for wrong in (trial.id, 99):
            with pytest.raises(ValueError, match=f"trial {wrong} does not wait"):
                ledger.finish(wrong, result(), 0.1, 0.0)
        assert [t.quality for t in ledger.trials()] == [0.5]


def test_the_first_record_under_a_key_stays(path):
    with Ledger.open(path, IDENTITY) as ledger:
        ledger.record("policy", "1", {"entropy": np.array([1.0, np.nan])})
        ledger.record("policy", "0", {"entropy": []})
        ledger.record("policy", "1", "something else")
        ledger.record("other", "1", "x")
        assert ledger.records("policy") == [{"entropy": [1.0, None]}, {"entropy": []}]
        assert ledger.records("nothing") == []
        assert ledger.get("best") is None
        ledger.put("best", 1)
        ledger.put("best", [2, "é"])
        assert ledger.get("best") == [2, "é"]


def test_an_empty_batch(path):
    with Ledger.open(path, IDENTITY) as ledger:
        assert ledger.propose("round", 0, np.zeros((0, 3), np.int32), [], 1.0) == []


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Ledger.open(tmp_path_factory.mktemp("ledger") / "trials.db", IDENTITY) as ledger:
        # Durability is not the subject here, and an fsync per example is slow.
        ledger.file.connection.execute("PRAGMA synchronous = OFF")
        yield ledger


@settings(max_examples=60, deadline=None)
@given(VALUES, FINITE, FINITE, st.integers(-(2**63), 2**63 - 1), st.lists(st.integers(0, 2**31)))
def test_everything_survives_exactly(shared, payload, quality, cost, seed, config):
    number = len(shared.trials())
    (trial,) = shared.propose("round", number, [config], [seed], quality, [[cost, quality]])
    done = shared.finish(trial.id, {"payload": payload, "failed": ""}, quality, cost)
    assert (done.quality, done.cost, done.seed) == (quality, cost, seed)
    assert done.config == tuple(config) and done.predicted == [cost, quality]
    assert done.outcome == {"payload": payload, "failed": ""}
    shared.record("payload", str(number), payload)
    assert shared.records("payload")[-1] == payload


@given(st.floats(), st.floats(width=32))
def test_json_is_strict_and_infinities_come_back(value, narrow):
    text = dumps({"a": [value, np.float32(narrow), np.array([value])]})
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["a"]
    for given_, got in ((value, found[0]), (float(narrow), found[1]), (value, found[2][0])):
        assert (got is None) if math.isnan(given_) else float(got) == given_


# --- whose ledger it is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": "xyz"}, r"its data is 'def', this run's is 'xyz'.*another name.*move the folder"),
        ({"plan": "new"}, r"its plan is None, this run's is 'new'"),
    ],
)
def test_another_search_is_refused_by_item(path, changed, words):
    Ledger.open(path, IDENTITY).close()
    with pytest.raises(LedgerMismatch, match=words):
        Ledger.open(path, IDENTITY | changed)
    Ledger.open(path, IDENTITY).close()  # and the refusal let go of the run


def test_another_format_is_refused(path):
    with Ledger.open(path, IDENTITY) as ledger:
        ledger.put("identity", IDENTITY | {"format": "99"})
    for open_ in (lambda: Ledger.open(path, IDENTITY), lambda: Ledger.read(path)):
        with pytest.raises(LedgerMismatch, match="format 99, this code reads formats 1 and 2"):
            open_()


HOLD = """
import sys, time
from autorank.ledger.ledger import Ledger
ledger = Ledger.open(sys.argv[1], {"space": "abc", "data": "def", "seed": "0"})
print("open", flush=True)
time.sleep(60)
"""


def test_second_writer_is_refused_until_the_first_is_killed(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        host = os.uname().nodename
        with pytest.raises(RunInUse, match=rf"process {holder.pid} on {host}.*another name"):
            Ledger.open(path, IDENTITY)
        Ledger.read(path).close()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with Ledger.open(path, IDENTITY) as ledger:
        assert ledger.trials() == []


def test_two_writers_in_one_process_are_refused(path):
    with Ledger.open(path, IDENTITY), pytest.raises(RunInUse, match=f"process {os.getpid()} "):
        Ledger.open(path, IDENTITY)


# --- kill -9 --------------------------------------------------------------------------------------

WRITE = """
import sys
from autorank.ledger.ledger import Ledger
with Ledger.open(sys.argv[1], {"space": "abc", "data": "def", "seed": "0"}) as ledger:
    start = len({t.round for t in ledger.trials("round")})
    print("open", flush=True)
    for number in range(start, 100000):
        trials = ledger.propose("round", number, [[number] * 8] * 7, range(7), 1.0)
        for trial in trials:
            curve = [[trial.id / 3] * 4] * 300  # several pages, so that a torn write would show
            ledger.finish(trial.id, {"curve": curve, "failed": ""}, trial.id / 3, 0.0)
            print(trial.id, flush=True)
        ledger.record("policy", number, {"round": number})
"""


def test_kill_9_in_the_middle_of_writes(path):
    """At 20 random moments, or more on a slow disk: batches are whole, results too, what was reported is there."""
    rng = random.Random(0)
    kills, reported = 0, set()
    while kills < 20 or (len(reported) <= 20 and kills < 200):
        kills += 1
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
        time.sleep(rng.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        lines, _ = writer.communicate()
        reported |= {int(line) for line in lines.split("\n")[:-1]}
        # Readers first: they must cope with what a killed writer left.
        with Ledger.read(path) as ledger:
            trials = ledger.trials()
        rounds = {t.round for t in trials}
        assert rounds == set(range(len(rounds)))
        assert len(trials) == 7 * len(rounds)
        for trial in trials:
            assert trial.config == (trial.round,) * 8
            if trial.status == "finished":
                assert trial.outcome is not None
                assert trial.outcome["curve"] == [[trial.id / 3] * 4] * 300
                assert trial.quality == trial.id / 3
            else:
                assert trial.outcome is None and trial.quality is None
        assert reported <= {t.id for t in trials if t.status == "finished"}
        assert not path.with_name("trials.db.part").exists()
    assert len(reported) > 20


def test_a_killed_writers_journal_is_undone_by_a_reader(path):
    """The database is overwritten in place and the journal left: only the journal knows the truth."""
    program = """
import os, signal, sys
from autorank.ledger.ledger import Ledger
ledger = Ledger.open(sys.argv[1], {"space": "abc", "data": "def", "seed": "0"})
ledger.propose("pilot", 0, [[1]], [0], 1.0)
connection = ledger.file.connection
connection.execute("PRAGMA cache_size = 2")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE trials SET stage = 'torn'")
# More pages than the cache holds, so that they are spilled into the file before the commit.
connection.executemany("INSERT INTO meta VALUES (?, ?)", [(str(i), "x" * 4000) for i in range(50)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert path.with_name("trials.db-journal").stat().st_size > 0
    with Ledger.read(path) as ledger:
        assert [t.stage for t in ledger.trials()] == ["pilot"]
        assert ledger.get("3") is None


def test_a_killed_creation_leaves_nothing_that_passes_for_a_ledger(path):
    path.with_name("trials.db.part").write_bytes(b"half")
    path.with_name("trials.db-journal").write_bytes(b"of a ledger that was removed")
    with Ledger.open(path, IDENTITY) as ledger:
        assert ledger.trials() == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["trials.db", "trials.db.lock"]


# --- readers --------------------------------------------------------------------------------------


def test_readers_and_the_writer_do_not_wait_for_each_other(path):
    with Ledger.open(path, IDENTITY) as writer, Ledger.read(path) as reader:
        for connection in (writer.file.connection, reader.file.connection):
            connection.execute("PRAGMA busy_timeout = 0")  # any wait would be an error
        for number in range(20):
            (trial,) = writer.propose("round", number, [[1]], [0], 1.0)
            assert reader.trials()[-1].status == "proposed"
            writer.finish(trial.id, result(), 0.5, 0.0)
            assert reader.trials()[-1].status == "finished"
            assert len(reader.trials()) == number + 1


def test_a_reader_cannot_write(path):
    Ledger.open(path, IDENTITY).close()
    with Ledger.read(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.put("a", 1)


def test_no_ledger_is_said_so(path):
    with pytest.raises(FileNotFoundError, match="no ledger at .*trials.db"):
        Ledger.read(path)
    assert not path.exists()


def test_odd_names_of_folders(tmp_path):
    path = tmp_path / "a?mode=memory#b%20c'd" / "trials.db"
    with Ledger.open(path, IDENTITY) as ledger:
        ledger.put("a", 1)
    assert path.is_file()
    with Ledger.read(path) as ledger:
        assert ledger.get("a") == 1


def test_a_foreign_lock_is_named(path, monkeypatch):
    monkeypatch.setattr("autorank.ledger.errors.BUSY_SECONDS", 0.05)
    with Ledger.open(path, IDENTITY) as ledger:
        foreign = sqlite3.connect(path, isolation_level=None)
        foreign.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RunInUse, match="held by another program"):
            ledger.put("a", 1)
        foreign.close()
        ledger.put("a", 1)


# --- damage and a full disk -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "trials.db"
    with Ledger.open(path, IDENTITY) as ledger:
        for trial in ledger.propose("pilot", 0, [[1] * 9] * 40, range(40), 1.0):
            ledger.finish(trial.id, {"curve": [[0.5]] * 200, "failed": ""}, 0.5, 0.0)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused_with_advice(path, sound, share):
    path.write_bytes(sound[: int(share * len(sound))])
    for open_ in (lambda: Ledger.open(path, IDENTITY), lambda: Ledger.read(path)):
        with pytest.raises(LedgerCorrupt, match="damaged or no ledger.*move the folder"):
            open_()
    assert path.stat().st_size == int(share * len(sound))  # and left as it was


@pytest.mark.parametrize("page", [0, 1, 2, 5])
def test_overwritten_pages_are_noticed(path, sound, page):
    damaged = bytearray(sound)
    damaged[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(damaged)
    with pytest.raises(LedgerCorrupt, match="damaged"):
        Ledger.open(path, IDENTITY)


def test_other_files_are_no_ledgers(path):
    path.write_text("a text that somebody put here, longer than a header" * 50)
    with pytest.raises(LedgerCorrupt, match="damaged or no ledger"):
        Ledger.read(path)
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE trials (id INTEGER)")
    foreign.close()
    with pytest.raises(LedgerCorrupt, match="its tables are missing"):
        Ledger.open(path, IDENTITY)


def test_a_full_disk_loses_nothing_and_half_writes_nothing(path):
    """SQLite's own limit on pages gives the same error as a disk without room."""
    with Ledger.open(path, IDENTITY) as ledger:
        trials = ledger.propose("pilot", 0, [[1]] * 50, range(50), 1.0)
        pages = ledger.file.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.file.connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        kept = 0
        with pytest.raises(LedgerFull, match="full.*Make room.*same command"):
            for trial in trials:
                ledger.finish(trial.id, {"curve": [[0.5]] * 1000, "failed": ""}, 0.5, 0.0)
                kept += 1
        before = ledger.trials()
        assert 0 < kept == sum(t.status == "finished" for t in before) < 50
        with pytest.raises(LedgerFull):
            ledger.propose("round", 0, [[1] * 999] * 99, range(99), 1.0)
        assert ledger.trials() == before
        ledger.file.connection.execute("PRAGMA max_page_count = 100000")
        done = ledger.finish(trials[kept].id, {"curve": [[0.5]] * 1000, "failed": ""}, 0.5, 0.0)
        assert done.status == "finished"
    with Ledger.open(path, IDENTITY) as ledger:
        assert sum(t.status == "finished" for t in ledger.trials()) == kept + 1


def test_a_disk_that_is_really_full(tmp_path):
    """On a file system of 64 KiB, where this system lets us make one."""
    room = tmp_path / "room"
    room.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(room)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs rights that this user has not")
    try:
        with Ledger.open(room / "trials.db", IDENTITY) as ledger:
            trials = ledger.propose("pilot", 0, [[1]] * 50, range(50), 1.0)
            kept = 0
            with pytest.raises(LedgerFull, match="Make room"):
                for trial in trials:
                    ledger.finish(trial.id, {"curve": [[0.5]] * 1000, "failed": ""}, 0.5, 0.0)
                    kept += 1
        with Ledger.read(room / "trials.db") as ledger:
            assert sum(t.status == "finished" for t in ledger.trials()) == kept > 0
        (room / "filler").write_bytes(b"")
        with (room / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(b"x" * 4096)
        with pytest.raises(LedgerFull):
            Ledger.open(room / "other.db", IDENTITY)
        assert not (room / "other.db").exists() and not (room / "other.db.part").exists()
    finally:
        subprocess.run(["umount", "-l", str(room)], check=True)
