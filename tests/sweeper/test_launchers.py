"""Launchers really run: joblib, submitit locally, a local Ray cluster; asynchronous, workers killed."""

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from autorank.ledger.ledger import Ledger
from tests.sweeper import fake_slurm
from tests.sweeper.test_faults import rows, start, sweep, wait_for

pytestmark = pytest.mark.waits

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    "autorank_ray": ["hydra/launcher=autorank_ray", "hydra.launcher.num_workers=2"],
}
MODULES = {"joblib": "joblib", "submitit": "submitit", "autorank_ray": "ray"}


@pytest.fixture(params=list(LAUNCHERS))
def launcher(request) -> list[str]:
    pytest.importorskip(MODULES[request.param])
    return [*LAUNCHERS[request.param], "hydra.sweeper.batch_size=2"]


def test_no_trial_waits_for_the_slowest_and_killed_workers_are_replaced(launcher, tmp_path):
    """Job x=10 kills its worker once, job number 1 kills every worker: the first is retried, the second has failed.

    Number 1 is faster: if it breaks the pool of both, that does not count as an attempt of the other.
    """
    once = tmp_path / "once"
    faults = ["when=[10]", "do=kill", f"once={once}", "doomed=[1]"]
    faults += ["seconds=0.1", "slowed=[10]", "slow=1"]
    text = sweep(tmp_path, *launcher, *faults, trials=6)
    with Ledger.read(tmp_path / "trials.db") as ledger:
        trials, asks = ledger.trials(), ledger.records("ask")
    assert len(trials) == 6 and len({t.config for t in trials}) == 6
    assert once.exists() and "lost its worker (1 of 2 attempts)" in text
    # Neither the culprit of a single death nor another job of the same pool has failed.
    assert [t.id for t in trials if t.status == "failed"] == [2]
    assert "its worker died in 2 attempts" in trials[1].reason
    assert any(len(ask["pending"]) == 1 for ask in asks)  # asked while a trial was running


def runs(log: Path) -> Counter:
    """How often each job was started."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(tuple(line.split()[:2]) for line in lines)


def wait_for_runs(log: Path, number: int) -> None:
    deadline = time.time() + 120
    while sum(runs(log).values()) < number and time.time() < deadline:
        time.sleep(0.05)


def processes(log: Path) -> set[int]:
    return {int(line.split()[2]) for line in log.read_text().splitlines()}


def descendants(root: int) -> set[int]:
    """A process and everything that it started, directly or not."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def end_of(process) -> None:
    """Kills it without reading its output, whose other end its workers may hold."""
    process.kill()
    process.wait()
    process.stdout.close()


def wait_for_gone(numbers: set[int]) -> None:
    deadline = time.time() + 30
    while any(alive(n) for n in numbers) and time.time() < deadline:
        time.sleep(0.1)
    assert not [n for n in numbers if alive(n)]


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_killed_with_and_without_its_workers_and_resumed(launcher, tmp_path, request):
    """kill -9 of the driver alone, then of everything at once: lost is at most what was in flight."""
    name = request.node.callspec.params["launcher"]
    log = tmp_path / "log"
    more = [*launcher, f"log={log}", "seconds=1"]
    process = start(tmp_path, *more, trials=6)
    wait_for(tmp_path, 1)
    running = descendants(process.pid)
    end_of(process)
    ended = [r for r in rows(tmp_path) if r[3] != "proposed"]
    process = start(tmp_path, *more, trials=6)
    wait_for(tmp_path, len(ended) + 2)
    before = runs(log)
    if name != "autorank_ray":  # its cluster ends with its driver
        assert max(before.values()) == 1, "an orphan was waited for, not run beside itself"
    for victim in descendants(process.pid) | {n for n in running if alive(n)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    end_of(process)
    ended = [r for r in rows(tmp_path) if r[3] != "proposed"]
    started = runs(log)
    sweep(tmp_path, *more, trials=6)
    after = rows(tmp_path)
    assert len(after) == 6 and all(r[3] == "finished" for r in after)
    assert [r for r in after if r in ended] == ended
    again = runs(log) - started
    numbers = {(str(r[2][0]), "abc"[r[2][1]]) for r in ended}
    assert not set(again) & numbers, "what ended does not run again"
    # At each of the two kills two were in flight (with Ray the first one ends them too).
    assert sum(runs(log).values()) <= 6 + (4 if name == "autorank_ray" else 2)


def test_a_stopped_driver_ends_its_workers_and_resumes(launcher, tmp_path, request):
    name = request.node.callspec.params["launcher"]
    log = tmp_path / "log"
    process = start(tmp_path, *launcher, f"log={log}", "seconds=90", trials=4)
    wait_for_runs(log, 2)
    sent = time.time()
    process.send_signal(signal.SIGTERM if name == "submitit" else signal.SIGINT)
    text, _ = process.communicate(timeout=80)
    assert process.returncode != 0 and "nothing that ended is lost" in text
    if name != "joblib":
        assert "cancelled 2 " in text
    assert time.time() - sent < 60  # it did not wait for them
    wait_for_gone(processes(log))
    assert [r[3] for r in rows(tmp_path)] == ["proposed"] * 2


def test_the_slurm_launcher_submits_and_cancels_as_slurm_is_told(tmp_path, monkeypatch):
    """Against a stand-in for Slurm's commands: the way through ``submitit_slurm``, not Slurm itself."""
    pytest.importorskip("submitit")
    commands = fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    log, folder = tmp_path / "log", tmp_path / "sweep"
    slurm = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", f"log={log}"]
    more = [*slurm, "hydra.sweeper.batch_size=2", "hydra.sweeper.searcher=random"]
    process = start(folder, *more, "seconds=5", trials=3)
    wait_for_runs(log, 3)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert "cancelled 2 submitit jobs" in text or "cancelled 1 submitit jobs" in text
    cancelled = (commands / "cancelled").read_text().split()
    assert cancelled and not any(alive(int(job)) for job in cancelled)
    ended = [r for r in rows(folder) if r[3] == "finished"]
    sweep(folder, *more, "seconds=5", trials=3)
    assert [r for r in rows(folder) if r in ended] == ended
    assert [r[3] for r in rows(folder)] == ["finished"] * 3
    assert sum(runs(log).values()) <= 3 + len(cancelled)


def test_failures_in_flight_are_replayed_from_the_ledger(tmp_path):
    """Exceptions and NaN while others run; then Hydra recomputes every proposal, and a changed one is seen."""
    pytest.importorskip("joblib")
    faults = ["when=[10]", "do=no_number", "rate=0.6", "seconds=0.1"]  # x > 10 raises
    more = [*LAUNCHERS["joblib"], "hydra.sweeper.batch_size=2", *faults]
    sweep(tmp_path, *more, trials=8, rate=1.0)
    found = rows(tmp_path)
    with Ledger.read(tmp_path / "trials.db") as ledger:
        reasons = [t.reason for t in ledger.trials() if t.status == "failed"]
    assert any("not finite" in r for r in reasons) and any("MemoryError" in r for r in reasons)
    assert "all 8 proposals" in sweep(tmp_path, *more, "hydra.sweeper.replay=true", trials=8)
    assert rows(tmp_path) == found
    connection = sqlite3.connect(tmp_path / "trials.db")
    other = next(c for c in ([x, 2] for x in range(20)) if tuple(c) not in {r[2] for r in found})
    connection.execute("UPDATE trials SET config = ? WHERE id = 8", (json.dumps(other),))
    connection.commit()
    connection.close()
    text = sweep(tmp_path, *more, "hydra.sweeper.replay=true", trials=8, ok=False)
    assert "replay: 1 proposals" in text and "trial 8" in text


def test_rounds_are_the_same_on_two_workers_and_under_another_hash_seed(tmp_path, monkeypatch):
    pytest.importorskip("joblib")
    found = []
    for seed, launcher in (("1", []), ("2", LAUNCHERS["joblib"])):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        folder = tmp_path / seed
        # One worker is slower than the other: results arrive in another order.
        slow = ["hydra.sweeper.asynchronous=false", "slow=0.5", "seconds=0.1"]
        sweep(folder, *launcher, *slow, cold=True)
        found.append(rows(folder))
    assert found[0] == found[1]


def test_a_job_that_hangs_beyond_any_exception_loses_its_worker():
    """The time limit's last resort, in a process of its own."""
    import subprocess
    import sys

    program = (
        "import os, time, hydra_plugins.autorank_sweeper._time_limit as j\n"
        "j.GRACE_SECONDS = 0.5\n"
        "def deaf(config):\n"
        "    while True:\n"
        "        try: time.sleep(60)\n"
        "        except j.TrialTimeout: pass\n"
        "task = j.limited(deaf, 0.3)\n"
        "task.driver = -1\n"
        "task(None)\n"
    )
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "Timeout" in done.stderr
    assert time.time() - started < 30


def test_the_time_limit_is_off_after_the_job():
    from hydra_plugins.autorank_sweeper._time_limit import TrialTimeout, limited

    assert limited(lambda c: c + 1, 60.0)(1) == 2
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(TrialTimeout, match="time_limit=0.05 s"):
        limited(lambda c: time.sleep(10), 0.05)(None)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    with pytest.raises(ValueError, match="above 0"):
        limited(lambda c: c, 0.0)
