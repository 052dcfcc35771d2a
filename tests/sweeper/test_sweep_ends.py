"""However a job ends, its trial has a status and a reason, and the sweep goes on unless its driver was stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from autorank.base.result import described, read_result
from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial
from experiments.fuzz.sweep import DIES, ends_of, run
from hydra_plugins.autorank_sweeper import (
    _baseline,
    _errors,
    _guard,
    _in_flight,
    _job,
    _kept,
    _lock,
    _signals,
)
from hydra_plugins.autorank_sweeper._app import App
from hydra_plugins.autorank_sweeper._attempts import STOPS_IN_PROCESS, Attempts


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_every_end_is_a_row_with_its_reason(launcher, tmp_path):
    """Each end once where jobs run in the driver, one of each kind through a pool; `fuzz/sweep.py` runs them all."""
    if launcher == "basic":
        ends = [e for e in ends_of(launcher, full=False) if e not in DIES]
    else:
        pytest.importorskip(launcher)
        ends = [
            "number",
            "pair",
            "closed_streams",
            "deleted_folder",
            "fork",
            "raise",
            "two_arguments",
            "exit_0",
        ]
        ends += [
            "keyboard",
            "odd",
            "dict",
            "lambda",
            "hostile",
            "os_exit_0",
            "sigint",
            "folder_too_long",
        ]
    outcome = run(tmp_path, launcher, len(ends), ends=ends, stops=0, most=1)
    assert outcome.wrong == [] and outcome.statuses == [0]
    assert sorted(end for end, _ in outcome.trials) == sorted(ends)


# --- whose signal --------------------------------------------------------------------------------


def from_outside(number: int) -> None:
    """As a user or a scheduler sends it: from another process."""
    program = f"import os; os.kill({os.getpid()}, {int(number)})"
    subprocess.run([sys.executable, "-S", "-c", program], check=True)
    time.sleep(0.05)


def swallowing() -> float:
    try:
        from_outside(signal.SIGTERM)
    except BaseException:
        raise ValueError("cancelled") from None
    return 1.0


def with_a_handler_of_its_own() -> float:
    signal.signal(signal.SIGTERM, lambda *_: None)
    from_outside(signal.SIGTERM)
    return 1.0


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), None),
        (lambda: os.kill(os.getpid(), signal.SIGINT), None),
        (lambda: signal.raise_signal(signal.SIGTERM), None),
        (lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT), None),
        (lambda: sys.exit(0), None),
        (lambda: from_outside(signal.SIGTERM), signal.SIGTERM),
        (lambda: from_outside(signal.SIGINT), signal.SIGINT),
        (swallowing, signal.SIGTERM),
        (with_a_handler_of_its_own, signal.SIGTERM),
    ],
)
def test_a_signal_is_a_stop_only_if_another_process_sent_it(task, asked):
    before = [signal.getsignal(n) for n in _signals.STOPPING]
    with _signals.stops():
        try:
            with _guard.restored(), _signals.job():
                task()
        except BaseException as error:
            ended: BaseException | None = error
        else:
            ended = None
        assert _signals.requested() == asked
        if asked is None:
            _signals.check()
            assert ended is not None
        else:
            status = KeyboardInterrupt if asked == signal.SIGINT else SystemExit
            with pytest.raises(status) as stopped:
                _signals.check()
            assert asked == signal.SIGINT or getattr(stopped.value, "code", None) == 143
    assert [signal.getsignal(n) for n in _signals.STOPPING] == before


@pytest.mark.parametrize("lost", ["at another thread", "in a callback"])
def test_a_signal_that_does_not_wake_the_driver_still_stops_it(lost, monkeypatch):
    monkeypatch.setattr(_in_flight, "LOOK_SECONDS", 0.2)
    stopped, interrupted, over = trial(1), [], threading.Event()

    class Launcher:
        def launch(self, jobs, initial_job_idx):
            time.sleep(0.1)  # until the driver waits
            if lost == "in a callback":  # the handler ran, but nobody saw what it raised
                monkeypatch.setattr(_signals, "_asked", signal.SIGINT)
            else:
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            over.wait(30)

    driver = _in_flight.InFlight(
        SimpleNamespace(has_ended=lambda t: False),
        Launcher(),
        SimpleNamespace(startable=lambda: [stopped]),
        SimpleNamespace(
            started=lambda trials: None,
            interrupted=interrupted.extend,
            is_suspect=lambda t: False,
        ),
        SimpleNamespace(
            adopt=lambda t: False, swept=SimpleNamespace(overrides=lambda config: ["x=1"])
        ),
        size=1,
    )  # type: ignore[arg-type]
    started = time.time()
    with _signals.stops(), pytest.raises(KeyboardInterrupt):
        driver.run()
    over.set()
    assert interrupted == [stopped] and time.time() - started < 20


# --- what surrounds a job ------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path, monkeypatch):
    config = SimpleNamespace(overrides=SimpleNamespace(task=["x=1"]))
    monkeypatch.setattr(_job, "HydraConfig", SimpleNamespace(get=lambda: config))
    monkeypatch.setattr(_signals, "_asked", None)

    def made(task, in_driver: bool) -> _job.Job:
        made = _job.Job(task)
        made.watch(tmp_path, "l", "d", pool=False)
        made.process = os.getpid() if in_driver else -1
        return made

    return made


def leaves(config):
    sys.exit("no data")


@pytest.mark.parametrize("in_driver", [True, False])
def test_what_is_no_exception_is_a_failure_but_not_kept_for_the_next_driver(job, in_driver):
    """A worker that is told to end, with its driver gone, raises the same."""
    made = job(leaves, in_driver)
    with pytest.raises(_job.Failed, match="SystemExit: no data"):
        made(None)
    found = made.found(_kept.job_name(["x=1"]))
    assert found is None or in_driver


def test_what_a_worker_gives_can_always_be_read_by_its_driver(job):
    class Local(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    def raises(config):
        raise Local(1, 2)

    with pytest.raises(_job.Failed, match="Local: 1"):
        job(raises, in_driver=False)(None)
    kept = job(raises, False).kept
    assert kept is not None
    (tmp_file,) = Path(kept.folder).glob("*.json")
    tmp_file.unlink()
    with pytest.raises(_job.Failed, match="returned <function"):
        job(lambda c: leaves, in_driver=False)(None)


def test_a_launchers_own_way_out_is_left_to_it(job):
    """submitit queues a preempted job again by sys.exit in its signal handler."""
    program = compile("def leave(config):\n    raise SystemExit(-1)", "handler", "exec")
    names: dict = {"__name__": "submitit.core.job_environment"}
    exec(program, names)  # noqa: S102  a function of a module of that name
    with pytest.raises(SystemExit):
        job(names["leave"], in_driver=False)(None)


def test_a_job_leaves_its_process_as_it_was(tmp_path):
    here, limit = os.getcwd(), sys.getrecursionlimit()
    read, write = os.pipe()
    with _guard.restored():
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        os.dup2(write, 0)
        sys.setrecursionlimit(5000)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(100)
    assert os.getcwd() == here and sys.getrecursionlimit() == limit
    assert os.fstat(0).st_ino != os.fstat(write).st_ino
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN and signal.alarm(0) == 0
    os.close(read)
    os.close(write)


# JAX, if another test of this process has loaded it, warns of its threads.
forks = pytest.mark.filterwarnings("ignore:os.fork.*:RuntimeWarning")


@forks
def test_a_copy_of_the_process_does_not_come_back_as_a_second_driver():
    with _guard.restored():
        child = os.fork()
    assert child != 0  # here the copy has ended
    assert os.waitpid(child, 0)[1] == 0


@forks
@pytest.mark.parametrize("lock", ["ledger", "job"])
def test_a_process_that_a_job_left_behind_holds_no_lock(lock, tmp_path):
    """Otherwise a sweep whose driver was killed could not be resumed until that process ends."""
    if lock == "ledger":
        held = Ledger.open(tmp_path / "trials.db", {})
    else:
        held = _lock.exclusive(tmp_path / "lock")
    read, write = os.pipe()
    with held:
        child = os.fork()
        if child == 0:
            os.write(write, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(read, 1)
    try:
        started = time.time()
        with (
            Ledger.open(tmp_path / "trials.db", {})
            if lock == "ledger"
            else _lock.exclusive(tmp_path / "lock")
        ):
            assert time.time() - started < 10
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# --- which trials are given up -----------------------------------------------------------------------------


def trial(number: int) -> Trial:
    return Trial(
        number, "sweep", 0, 0, (0,), 0, 1.0, None, "proposed", "", None, None, None, 0.0, None
    )


def test_drivers_that_die_are_counted_against_what_they_ran(tmp_path):
    """In a pool others ran beside it: it first runs alone, and then it has failed."""
    culprit, other = trial(1), trial(2)
    with Ledger.open(tmp_path / "trials.db", {}) as ledger:
        for deaths in range(4):
            seen = Attempts(ledger, limit=2, in_process=False)
            assert seen.is_suspect(culprit) == (deaths >= 2) and not seen.given_up(culprit)
            seen.started([culprit])
            seen.started([other])
            seen.interrupted([other])
        seen = Attempts(ledger, limit=2, in_process=False)
        assert "ended 4 times" in seen.given_up(culprit)
        assert not seen.given_up(other) and not seen.is_suspect(other)
        alone = Attempts(ledger, limit=3, in_process=True)
        assert "ended 4 times" in alone.given_up(culprit)
        assert not alone.given_up(other)  # stopped four times, which does not count against it
        for _ in range(STOPS_IN_PROCESS - 4):
            alone.started([other])
            alone.interrupted([other])
        assert "stopped 5 times" in Attempts(ledger, 3, True).given_up(other)
        assert not Attempts(ledger, 3, False).given_up(other)


def test_a_choice_that_the_app_refuses_is_a_failed_trial_and_a_key_that_it_lacks_is_an_error():
    class Refused(Exception):
        pass

    space = SimpleNamespace(baseline=(0,), decisions=[SimpleNamespace(choices=(0, 1, 2))])
    swept = SimpleNamespace(space=space, overrides=lambda c: [f"x={c[0]}"])

    def load(config, lines):
        if lines == ["x=0"]:
            raise Refused("not 0")

    loader = SimpleNamespace(load_sweep_config=load)
    _baseline.check_composes(swept, App(loader, None))  # type: ignore[arg-type]

    def never(config, lines):
        raise Refused("no such key")

    with pytest.raises(Exception, match="no trial's config can be composed: Refused: no such key"):
        refusing = App(SimpleNamespace(load_sweep_config=never), None)  # type: ignore[arg-type]
        _baseline.check_composes(swept, refusing)  # type: ignore[arg-type]


# --- reasons -------------------------------------------------------------------------------------


class Broken:
    size = 1

    def item(self):
        raise SystemExit(1)


def test_of_a_workers_traceback_the_reason_is_what_it_raised():
    trace = "failed with trace:\n---\nTraceback (most recent call last):\n  File\nOSError: [Errno 36] x\n---\nSee logs"
    assert _errors.cause(RuntimeError(trace)) == "OSError: [Errno 36] x"
    assert _errors.cause(RuntimeError("a: b")) == "RuntimeError: a: b"


def test_reasons_are_lines_that_every_file_can_hold():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert described(Mute()) == "Mute: its message cannot be read (RuntimeError)"
    assert described(OSError("no \udcff\0")) == "OSError: no \\udcff\\x00"
    assert "which cannot be read (SystemExit: 1)" in read_result(Broken()).failed
    assert "\n" not in read_result([[1], [2]]).failed
