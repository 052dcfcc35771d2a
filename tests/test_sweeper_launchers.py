"""Launchers really run: joblib, submitit locally, a local Ray cluster; asynchronous, workers killed."""

import signal
import time
from pathlib import Path

import pytest

from autorank.ledger import Ledger
from tests.test_sweeper_faults import rows, start, sweep

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


def test_nobody_waits_for_the_slowest_and_a_killed_worker_is_replaced(launcher, tmp_path):
    """Job x=10 kills its worker at the first attempt; with a slow one in flight the others go on."""
    once = tmp_path / "once"
    text = sweep(
        tmp_path, *launcher, "when=[10]", "do=kill", f"once={once}", "seconds=0.1", trials=6
    )
    found = rows(tmp_path)
    assert len(found) == 6 and len({r[2] for r in found}) == 6
    assert once.exists() and "lost its worker (1 of 2 attempts)" in text
    assert [r[3] for r in found] == ["finished"] * 6  # the culprit too, elsewhere
    with Ledger.read(tmp_path / "trials.db") as ledger:
        asks = ledger.records("ask")
    assert any(len(ask["pending"]) == 1 for ask in asks)  # asked while a trial was running


@pytest.mark.parametrize("name", ["joblib"])
def test_a_job_that_kills_two_workers_is_a_failed_trial(name, tmp_path):
    pytest.importorskip(MODULES[name])
    sweep(
        tmp_path, *LAUNCHERS[name], "hydra.sweeper.batch_size=2", "when=[10]", "do=kill", trials=4
    )
    with Ledger.read(tmp_path / "trials.db") as ledger:
        first, *others = ledger.trials()
    assert first.status == "failed" and "its worker died in 2 attempts" in first.reason
    assert [t.status for t in others] == ["finished"] * 3  # those in the same pool are not blamed


@pytest.mark.parametrize("name", ["joblib"])
def test_an_interrupted_driver_takes_its_workers_along_and_resumes(name, tmp_path):
    pytest.importorskip(MODULES[name])
    log = tmp_path / "log"
    more = [*LAUNCHERS[name], "hydra.sweeper.batch_size=2", f"log={log}", "seconds=1"]
    process = start(tmp_path, *more, trials=5)
    deadline = time.time() + 120
    while not (log.exists() and log.read_text().count("\n") >= 3) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "nothing that ended is lost" in text
    workers = {int(line.split()[2]) for line in log.read_text().splitlines()}
    deadline = time.time() + 20
    while any(Path(f"/proc/{w}").exists() for w in workers) and time.time() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{w}").exists() for w in workers)
    before = [r for r in rows(tmp_path) if r[3] != "proposed"]
    sweep(tmp_path, *more, trials=5)
    after = rows(tmp_path)
    assert len(after) == 5 and all(r in after for r in before)


def test_a_job_that_hangs_beyond_any_exception_loses_its_worker():
    """The time limit's last resort, in a process of its own."""
    import subprocess
    import sys

    program = (
        "import os, time, hydra_plugins.autorank_sweeper._job as j\n"
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
    from hydra_plugins.autorank_sweeper._job import TrialTimeout, limited

    assert limited(lambda c: c + 1, 60.0)(1) == 2
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(TrialTimeout, match="time_limit=0.05 s"):
        limited(lambda c: time.sleep(10), 0.05)(None)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    with pytest.raises(ValueError, match="above 0"):
        limited(lambda c: c, 0.0)
