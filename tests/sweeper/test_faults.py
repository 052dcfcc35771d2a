"""Faults as a user of `hydra/sweeper=autorank` meets them: nothing lost, no wrong resume, advice."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autorank.ledger.ledger import Ledger
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
APP = str(ROOT / "tests" / "sweeper" / "sweep_app" / "app.py")
SPACE = ["x=range(0,20)", "kind=choice(a,b,c)"]
SWEEPER = [
    "hydra/sweeper=autorank",
    "hydra.sweeper.searcher=evolution",
    "hydra.sweeper.batch_size=4",
]


def command(folder: Path, *more: str, trials: int = 9) -> list[str]:
    plan = [f"hydra.sweeper.trials={trials}", f"hydra.sweep.dir={folder}"]
    return [sys.executable, APP, "-m", *SPACE, *SWEEPER, *plan, *more]


def start(folder: Path, *more: str, trials: int = 9, cold: bool = False) -> warm.Program:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    line = command(folder, *more, trials=trials)
    return (warm.start_cold if cold else warm.start)(line, environment)


def sweep(
    folder: Path,
    *more: str,
    trials: int = 9,
    ok: bool = True,
    rate: float = 0.5,
    cold: bool = False,
) -> str:
    plan = f"hydra.sweeper.max_failure_rate={rate}"
    process = start(folder, plan, *more, trials=trials, cold=cold)
    try:
        text, _ = process.communicate(timeout=300)
    except BaseException:
        process.kill()
        raise
    assert (process.returncode == 0) == ok, text
    return text


def rows(folder: Path) -> list[tuple]:
    with Ledger.read(folder / "trials.db") as ledger:
        return [(t.id, t.round, t.config, t.status, t.quality, t.cost) for t in ledger.trials()]


def wait_for(folder: Path, ended: int) -> None:
    deadline = time.time() + 120
    while time.time() < deadline:
        if (folder / "trials.db").exists():
            try:
                found = [r for r in rows(folder) if r[3] != "proposed"]
            except Exception:  # a moment between two states of the file
                found = []
            if len(found) >= ended:
                return
        time.sleep(0.05)
    raise AssertionError(f"no {ended} results in time")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The undisturbed sweep, as a user starts it; job x=3 raises."""
    folder = tmp_path_factory.mktemp("whole")
    sweep(folder, cold=True)
    return folder


def test_driver_stopped_in_three_ways_ends_as_if_undisturbed(whole, tmp_path):
    log = tmp_path / "log"
    for ended, sent in ((1, signal.SIGKILL), (3, signal.SIGINT), (5, signal.SIGTERM)):
        process = start(tmp_path, f"log={log}", "seconds=0.2")
        wait_for(tmp_path, ended)
        process.send_signal(sent)
        text, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        if sent != signal.SIGKILL:
            assert "continues it: nothing that ended is lost" in text
    sweep(tmp_path, f"log={log}", "seconds=0.2")
    assert rows(tmp_path) == rows(whole)
    # A finished job never ran twice: at most one was in flight at each of the three stops.
    assert len(log.read_text().splitlines()) <= len(rows(whole)) + 3


def test_going_on_after_the_end_with_more_trials(whole, tmp_path):
    sweep(tmp_path, trials=5)
    before = rows(tmp_path)
    text = sweep(tmp_path, trials=7)
    assert rows(tmp_path)[:5] == before and len(rows(tmp_path)) == 7
    assert "resuming: 5 trials are there" in text
    assert (tmp_path / "6").is_dir() and not (tmp_path / "7").exists()  # job numbers go on


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("raise", "RuntimeError: out of memory"),
        ("no_number", "not finite"),
        ("rubbish", "returned {'loss': 1.0}"),
    ],
)
def test_a_failing_job_is_a_row_and_stops_nothing(tmp_path, do, words):
    when = "when=[10,11,12,13]"  # 10 is the baseline
    text = sweep(tmp_path, when, f"do={do}", trials=6)
    with Ledger.read(tmp_path / "trials.db") as ledger:
        trials = ledger.trials()
    assert len(trials) == 6 and trials[0].status == "failed" and words in trials[0].reason
    assert words in text


def test_beyond_the_failure_rate_the_sweep_stops_with_advice(tmp_path):
    everywhere = f"when={list(range(20))}".replace(" ", "")
    text = sweep(
        tmp_path, everywhere, "do=raise", "hydra.sweeper.max_failure_rate=0.3", trials=20, ok=False
    )
    assert "4 of 4 trials failed" in text and "raise max_failure_rate" in text
    assert "Traceback" not in text


def test_a_job_that_hangs_meets_its_time_limit(tmp_path):
    started = time.time()
    sweep(tmp_path, "when=[10]", "do=hang", "hydra.sweeper.time_limit=1", trials=2)
    found = rows(tmp_path)
    assert found[0][3] == "failed" and found[1][3] == "finished"
    assert time.time() - started < 100


def test_a_job_that_kills_the_driver_is_given_up_after_three_starts(tmp_path):
    for _ in range(3):
        sweep(tmp_path, "when=[10]", "do=kill", trials=3, ok=False)
    sweep(tmp_path, "when=[10]", "do=kill", trials=3)
    with Ledger.read(tmp_path / "trials.db") as ledger:
        first, *others = ledger.trials()
    assert first.status == "failed" and "ended 3 times" in first.reason
    assert all(t.status == "finished" for t in others)


def test_two_drivers_on_one_ledger(tmp_path):
    first = start(tmp_path, "seconds=4", trials=30)  # ends long after the other has been refused
    try:
        wait_for(tmp_path, 1)
        text = sweep(tmp_path, trials=30, ok=False)
        assert "is being written by process" in text and "another name" in text
    finally:
        first.kill()
        first.communicate(timeout=120)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("hydra.sweeper.seed=1", "its search settings has seed="),
        ("seconds=0.01", "its fixed overrides is"),
        ("kind=choice(a,b)", "its space is"),
    ],
)
def test_a_changed_sweep_is_refused_by_name(whole, change, words):
    before = rows(whole)
    text = sweep(whole, change, ok=False)
    assert words in text and "Give this run another name" in text and "Traceback" not in text
    assert rows(whole) == before


def test_changed_files_are_refused(tmp_path):
    data = tmp_path / "train.csv"
    data.write_text("1,2\n")
    files = f"hydra.sweeper.files=[{data}]"
    sweep(tmp_path, files, trials=2)
    data.write_text("1,3\n")
    assert "its files has" in sweep(tmp_path, files, trials=2, ok=False)
    data.write_text("1,2\n")
    sweep(tmp_path, files, trials=3)


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_ledger_is_refused_and_left_alone(whole, tmp_path, damage):
    whole_file = (whole / "trials.db").read_bytes()
    broken = whole_file[:5000] if damage == "truncated" else b"rubbish!" + whole_file[8:]
    (tmp_path / "trials.db").write_bytes(broken)
    text = sweep(tmp_path, ok=False)
    assert "is damaged" in text and "Restore it from a copy" in text and "Traceback" not in text
    assert (tmp_path / "trials.db").read_bytes() == broken


def test_a_full_disk_stops_with_advice_and_loses_nothing(whole, tmp_path):
    """On a small file system, where this system lets us mount one."""
    room = tmp_path / "room"
    room.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(room)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs rights that this user has not")
    try:
        ledger = f"hydra.sweeper.ledger={room}/trials.db"
        sweep(tmp_path, ledger, trials=4)
        filler = room / "filler"
        with filler.open("wb", buffering=0) as stream, pytest.raises(OSError):
            while True:
                stream.write(b"x" * 1024)
        text = sweep(tmp_path, ledger, ok=False)
        assert "Make room on the disk" in text and "Traceback" not in text
        filler.unlink()
        sweep(tmp_path, ledger)
        connection = sqlite3.connect(room / "trials.db")
        found = connection.execute(
            "SELECT config, status, quality FROM trials ORDER BY id"
        ).fetchall()
        connection.close()
    finally:
        subprocess.run(["umount", "-l", str(room)], check=True)
    assert [(tuple(json.loads(c)), s, q) for c, s, q in found][:4] == [
        (r[2], r[3], r[4]) for r in rows(whole)
    ][:4]
    assert len(found) == 9 and all(status == "finished" for _, status, _ in found)
