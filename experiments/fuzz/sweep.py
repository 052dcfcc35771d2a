"""Sweeps whose jobs end in every way a process can: no trial is lost, each has the right status and a reason.

    python -m experiments.fuzz.sweep --launcher basic --jobs 200 --seed 0   # joblib, submitit, ray; 5 to 20 minutes

The driver is stopped (SIGINT, SIGTERM) and killed now and then, and started again when it ends before its sweep does.
Prints a table of ends and outcomes; its own exit status is 0 where everything came out right.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial
from experiments.fuzz.job_ends import ENDS
from experiments.machine import ROOT

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.batch_size=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.sweeper.batch_size=4"],
    "ray": ["hydra/launcher=autorank_ray", "hydra.launcher.num_workers=2", "hydra.sweeper.batch_size=2"],
}  # fmt: skip
SUCCEEDS = set(list(ENDS)[: list(ENDS).index("raise")])
DIES = {
    "os_exit_0",
    "os_exit_3",
    "abort",
    "null_pointer",
    "sigkill",
    "sighup",
    "sigusr1",
    "pool",
    "deaf",
}
TERMINATED = {"sigterm", "raised_sigterm", "sigterm_of_thread"}
REASONS = {
    "raise": "ValueError: bad", "stop_iteration": "StopIteration", "group": "several", "unprintable": "cannot be read",
    "surrogates": r"OSError: no \\udcff file", "two_arguments": "1 and 2", "lambda_in_error": "with a function",
    "recursion": "RecursionError", "memory": "MemoryError", "exit_0": "SystemExit: 0", "exit_3": "SystemExit: 3",
    "exit_text": "no data", "exit": "SystemExit", "argparse": "SystemExit: 2", "keyboard": "KeyboardInterrupt",
    "generator": "GeneratorExit", "odd": "Odd: odd", "not_a_number": "not finite", "infinity": "not finite",
    "sigint": "KeyboardInterrupt", "hang": "time_limit", "folder_too_long": "File name too long",
    "folder_in_the_way": "blocked", "folder_not_found": "folder_not_found", "folder_full": "No space left",
}  # fmt: skip


class Outcome(NamedTuple):
    """The outcome of a sweep."""

    trials: list[tuple[str, Trial]]  # with the end of each
    statuses: list[int]  # of its drivers, in turn
    wrong: list[str]


def ends_of(launcher: str, full: bool) -> list[str]:
    """The ends that this launcher can survive (or, in the driver's own process, be started again after)."""
    left_out = {"deaf", "pool"} if launcher == "basic" else set()
    left_out |= set() if launcher == "joblib" else {"pool"}
    left_out |= set() if full else {"folder_full"}
    return [name for name in ENDS if name not in left_out]


def expected(end: str, launcher: str) -> tuple[str, str]:
    """Status and reason (a pattern)."""
    if end in SUCCEEDS:
        return "finished", ""
    if end in DIES:
        return (
            "failed",
            r"ended 3 times" if launcher == "basic" else r"its worker died in 2 attempts",
        )
    if end in TERMINATED:
        if launcher == "submitit":  # treats SIGTERM as a warning
            return ("failed", "returned None") if end == "raised_sigterm" else ("finished", "")
        return (
            "failed",
            r"SIGTERM, sent by the job" if launcher == "basic" else r"worker died|SystemExit",
        )
    return "failed", REASONS.get(end, r"returned .*")


def command(
    folder: Path, launcher: str, jobs: int, seed: int, ends: list[str], full: Path
) -> list[str]:
    """The sweep's command line, the same every time."""
    count = -(-jobs // len(ends)) + (jobs > len(ends))
    return [
        sys.executable, str(Path(__file__).with_name("job_ends.py")), "-m", "hydra/sweeper=autorank",
        "hydra.sweeper.searcher=random", f"hydra.sweeper.trials={jobs}", f"hydra.sweeper.seed={seed}",
        "hydra.sweeper.max_failure_rate=1", "hydra.sweeper.time_limit=10", f"hydra.sweep.dir={folder}",
        f"end=choice({','.join(ends)})", f"n=range(0,{count})", f"full={full}", *LAUNCHERS[launcher],
    ]  # fmt: skip


def run(
    folder: Path, launcher: str, jobs: int, seed: int = 0, ends: list[str] | None = None,
    full: Path | None = None, stops: int = 3, most: int = 1000,
) -> Outcome:  # fmt: skip
    """Runs the sweep to its end and checks it.

    Args:
        folder: the sweep's.
        launcher: a key of `LAUNCHERS`.
        jobs: number of trials.
        seed: of the sweep, and of when its driver is stopped.
        ends: those that occur; None: all that the launcher allows.
        full: a folder on a file system without room.
        stops: how often the driver is stopped from outside, each time in another way.
        most: drivers after which it is given up.
    """
    if (
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):  # a shell's background job; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blocked").touch()
    ends = ends or ends_of(launcher, full is not None)
    line = command(folder, launcher, jobs, seed, ends, full or Path("/nowhere"))
    draw, statuses, wrong = random.Random(seed), [], []
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    # After so many trials: these.
    planned = [(n, kinds[i % 3]) for i, n in enumerate(sorted(draw.sample(range(1, jobs), stops)))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    while len(statuses) < most:
        sent = None
        with (folder / "drivers.log").open("ab") as log:
            driver = subprocess.Popen(
                line, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            while driver.poll() is None:
                time.sleep(0.2)
                if planned and sent is None and num_ended(folder) >= planned[0][0]:
                    sent = planned.pop(0)[1]
                    driver.send_signal(sent)
            status = driver.returncode
        statuses.append(status)
        stopped = {None: set(), signal.SIGINT: {-2}, signal.SIGTERM: {143}, signal.SIGKILL: {-9}}[
            sent
        ]
        deaths = {-9, -6, -11, -1, -10, 0, 3} if launcher == "basic" else set()
        if status == 0 and num_ended(folder) == jobs:
            break
        if status not in stopped | deaths:
            wrong.append(f"driver {len(statuses)} ended with status {status}, see {log.name}")
            break
    with Ledger.read(folder / "trials.db") as ledger:
        trials, decisions = ledger.trials(), ledger.get("decisions")
    index = next(i for i, d in enumerate(decisions) if d["name"] == "end")
    named = [(decisions[index]["choices"][t.config[index]], t) for t in trials]
    wrong += mistakes(named, launcher, jobs)
    return Outcome(named, statuses, wrong)


def num_ended(folder: Path) -> int:
    """Trials that have their result. A driver that a job ended with status 0 has not ended its sweep."""
    try:
        with Ledger.read(folder / "trials.db") as ledger:
            return sum(t.status != "proposed" for t in ledger.trials())
    except (FileNotFoundError, RuntimeError):  # not yet, or in the middle of a write
        return 0


def mistakes(trials: list[tuple[str, Trial]], launcher: str, jobs: int) -> list[str]:
    """Everything that is wrong with a finished sweep."""
    found = []
    if len(trials) != jobs or len({t.config for _, t in trials}) != jobs:
        found.append(f"{len({t.config for _, t in trials})} different trials of {jobs}")
    for end, trial in trials:
        status, reason = expected(end, launcher)
        if trial.status != status or not re.search(reason, trial.reason):
            found.append(
                f"trial {trial.id - 1} ({end}) {trial.status}: {trial.reason!r}, not {status}: {reason!r}"
            )
    return found


def full_disk(folder: Path) -> Path | None:
    """Mounts a small, full file system if the system permits it."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        return None
    try:
        with (folder / "filler").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(1024))
    except OSError:
        return folder


def table(outcome: Outcome) -> str:
    """Ends, outcomes and the first reason of each, as Markdown."""
    rows = defaultdict(list)
    for end, trial in outcome.trials:
        rows[end].append(trial)
    lines = ["| end of the job | finished | failed | reason |", "|---|---|---|---|"]
    for end in ENDS:
        if end in rows:
            count = [sum(t.status == s for t in rows[end]) for s in ("finished", "failed")]
            reason = next((t.reason for t in rows[end] if t.reason), "").replace("|", "/")[:90]
            lines.append(f"| {end} | {count[0]} | {count[1]} | {reason} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--launcher", choices=list(LAUNCHERS), default="basic")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="a new one; default: a temporary folder")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fuzz-sweep-"))
    full = full_disk(folder / "full")
    started = time.time()
    try:
        outcome = run(folder / "sweep", given.launcher, given.jobs, given.seed, full=full)
    finally:
        if full is not None:
            subprocess.run(["umount", "-l", str(full)], check=True)
    print(table(outcome))
    print(
        f"\n{given.launcher}: {len(outcome.trials)} rows, {len(outcome.statuses)} drivers (the last one's exit status "
        f"{outcome.statuses[-1]}), {time.time() - started:.0f} s, {len(outcome.wrong)} mistakes; {folder}"
    )
    for line in outcome.wrong:
        print("WRONG", line)
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
