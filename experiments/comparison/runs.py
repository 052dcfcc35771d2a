"""One run of a benchmark: a searcher, a task, a batch size, a noise level and a seed; one resumable file each.

A file has one JSON line per batch, flushed after the batch. A line that was cut off is dropped and its batch is asked
for again; lines that are there are told again in order, so that a run continues where it ended. (A ledger synchronises
the disk twice a trial, which takes longer than most suggestions do.) Where a peer's own package fails, a last line says
so, and the run is over: what it found stands, and the trials that it did not propose count as failed.

On a recorded table (`Benchmark.pool`) `autorank` chooses among what is recorded (`Context.listed`). Any other
proposal is moved to the nearest configuration that is recorded and not tried yet. That one is evaluated, told and
written; the line has the proposals too (``asked``).
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.app.variants import variant
from autorank.base.file_names import file_name
from autorank.base.metrics import finite_or_none
from autorank.benchmarks.base import Benchmark, ask_table
from autorank.benchmarks.catalogue import get, levels
from autorank.recorded.pool import Pool
from autorank.searchers.base import SEARCHERS, Context, Searcher
from experiments.comparison.noise import RECORDED, noise_text, noisy
from experiments.comparison.peers.base import Told, described
from experiments.comparison.peers.catalogue import ENVIRONMENTS, PEERS, how_to_make, interpreter
from experiments.comparison.peers.process import PeerError, PeerProcess
from experiments.machine import RESULTS, ROOT, processor_name

DATA = Path(os.environ.get("AUTORANK_SHARED_DATA", ROOT.parent / "shared" / "data"))
LEVELS = RESULTS / "bench_levels.csv"
# Numbers of trials at which results are read, and our searchers say what they recommend.
POINTS = (10, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 125, 150)
NAME_FILE = "searcher.txt"  # in a folder of runs whose searcher's name is no name of a folder


class Job(NamedTuple):
    """The identity of a run."""

    searcher: str  # a peer, or a canonical name of `autorank.app.variants`
    task: str  # suite/task
    batch: int
    # Standard deviation of what is told, in units of the median random regret; or RECORDED.
    noise: float | str
    seed: int
    trials: int

    def path(self, folder: Path) -> Path:
        """The run's file. Runs of different length share it: a shorter one is a prefix."""
        name = f"{self.task.replace('/', '_')}-b{self.batch}-n{noise_text(self.noise)}-s{self.seed}.jsonl"
        return folder_of(self.searcher, folder) / name


class Driver(NamedTuple):
    """A searcher of ours or a peer, over native values."""

    ask: Callable[[int], list[dict[str, Any]]]
    tell: Callable[[Sequence[dict[str, Any]], Sequence[float], Sequence[float]], None]
    cpu: Callable[[], float] = (
        time.process_time
    )  # seconds so far, other processes of the searcher included
    asks_again: Callable[[], bool] = lambda: False  # whether a resume asks before it tells
    close: Callable[[], None] = lambda: None
    # The trial, by its number from 0 on, that the searcher recommends; None where it does not say.
    recommend: Callable[[], int | None] = lambda: None
    versions: dict[str, str] | None = None  # of a peer's environment


def folder_of(searcher: str, folder: Path) -> Path:
    """Where a searcher's runs lie, in a folder of runs."""
    return folder / file_name(searcher, also="=,[]")


def searcher_of(folder: Path) -> str:
    """The searcher whose runs lie in a folder."""
    named = folder / NAME_FILE
    return named.read_text() if named.exists() else folder.name


def is_unanswered(job: Job) -> bool:
    """Whether a peer would have to be told of configurations that it did not propose."""
    return job.searcher in PEERS and job.task.startswith("tables/")


def refuse_unanswered(job: Job) -> None:
    """Refuses a peer on a pool.

    Raises:
        RuntimeError: the job is one.
    """
    if is_unanswered(job):
        raise RuntimeError(
            f"{job.searcher} on {job.task}: a recorded table answers with another configuration than was proposed, of "
            f"which not every peer can be told; name searchers of ours: {', '.join(SEARCHERS)}"
        )


def refuse_noise(job: Job, benchmark: Benchmark) -> None:
    """Refuses noise that the task does not have.

    Raises:
        ValueError: recorded noise on a task without recorded seeds.
    """
    if job.noise == RECORDED and benchmark.seeds is None:
        raise ValueError(
            f"noise=recorded: {job.task} has no recorded seeds; write tasks='dhen/*' or a number, as noise=0.05"
        )


def run(job: Job, folder: Path, until: float = math.inf) -> int:
    """Starts or continues a run; returns the number of new trials.

    Args:
        job: the run.
        folder: of all runs.
        until: no batch is begun after this time (`time.time`).

    Raises:
        ValueError: recorded noise on a task without recorded seeds.
        PeerError: the peer's package failed, which ends the run.
        RuntimeError: another process is at it, or the peer cannot be run.
    """
    # First: a peer in its own process may not know the folder of tables.
    refuse_unanswered(job)
    benchmark = get(job.task, DATA)
    refuse_noise(job, benchmark)
    best, typical = levels(LEVELS)[job.task]
    return run_on(benchmark, typical - best, job, folder, until)


def run_on(
    benchmark: Benchmark,
    scale: float,
    job: Job,
    folder: Path,
    until: float = math.inf,
    drive: Callable[[Job, Benchmark], Driver] | None = None,
) -> int:
    """`run` on a benchmark that need not be in the catalogue.

    Args:
        benchmark: evaluates what is proposed.
        scale: of the noise: the median random regret.
        job, folder, until: as of `run`.
        drive: makes the driver; None takes the searcher of ours, or the peer, that the job names.

    Raises:
        PeerError, RuntimeError: as `run`.
    """
    path = job.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.name != job.searcher:
        (path.parent / NAME_FILE).write_text(job.searcher)
    if _told(read(path)) >= job.trials or ended(path):
        return 0
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{path} is written by another process; wait, or end it") from error
        lines, size = _whole(path)
        stream.truncate(size)  # drops a line that was cut off
        start = _told(lines)
        tried = _tried(benchmark, lines)
        driver = (drive or (peer_driver if job.searcher in PEERS else our_driver))(job, benchmark)
        try:
            for line in lines:
                if driver.asks_again():
                    driver.ask(len(line["loss"]))
                driver.tell(line["values"], losses_of(line), line["cost"])
            for told in range(start, job.trials, job.batch):
                if time.time() > until:
                    return told - start
                try:
                    line = _next(job, benchmark, driver, told, scale, tried)
                except PeerError as error:
                    end = {"ended": str(error).splitlines()[0][:300], "trials": job.trials}
                    stream.write(json.dumps(end) + "\n")
                    raise
                if told == start:  # of this line and those after it
                    line["device"] = processor_name()
                    line |= {"versions": driver.versions} if driver.versions else {}
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                tried |= _tried(benchmark, [line])
        finally:
            driver.close()
    return max(job.trials - start, 0)


def _next(
    job: Job, benchmark: Benchmark, driver: Driver, told: int, scale: float, tried: Collection[int]
) -> dict[str, Any]:
    """The batch after ``told`` trials, asked for, evaluated and told.

    Args:
        job: the run.
        benchmark: of its task.
        driver: of its searcher.
        told: number of trials so far.
        scale: the median random regret.
        tried: places in the benchmark's pool, if it has one.
    """
    size = min(job.batch, job.trials - told)
    cpu, wall = driver.cpu(), time.perf_counter()
    asked = rows = driver.ask(size)
    cpu, wall = driver.cpu() - cpu, time.perf_counter() - wall
    if benchmark.pool is not None:
        places = benchmark.pool.nearest(asked, tried)
        rows = [benchmark.pool.values(place) for place in places]
    line = evaluated(job, benchmark, rows, told, scale)
    line |= {"cpu": round(cpu, 6), "wall": round(wall, 6)}
    begun = driver.cpu()
    driver.tell(rows, losses_of(line), line["cost"])
    line |= {"asked": asked} if benchmark.pool is not None else {}
    line["tell_cpu"] = round(driver.cpu() - begun, 6)
    if any(told < point <= told + size for point in POINTS):
        recommended = driver.recommend()
        line |= {} if recommended is None else {"recommended": recommended}
    return line


def evaluated(
    job: Job, benchmark: Benchmark, rows: list[dict[str, Any]], told: int, scale: float
) -> dict[str, Any]:
    """The line of a batch that was asked for after ``told`` trials: its configurations and their results.

    ``scale`` is the median random regret.
    """
    found = benchmark.query(rows)
    draw = np.random.default_rng([job.seed, told])
    seen = noisy(draw, job.noise, benchmark, rows, found[:, 0], scale)
    return {
        "values": rows,
        "loss": [finite_or_none(v) for v in found[:, 0]],
        "seen": [finite_or_none(v) for v in seen],
        "cost": [round(float(v), 5) for v in found[:, 1]],
    }


def _told(lines: Sequence[dict[str, Any]]) -> int:
    return sum(len(line["loss"]) for line in lines)


def _tried(benchmark: Benchmark, lines: Sequence[dict[str, Any]]) -> set[int]:
    """Places in the pool that a run has tried; empty without a pool."""
    if benchmark.pool is None:
        return set()
    return {benchmark.pool.place(values) for line in lines for values in line["values"]}


def losses_of(line: dict[str, Any]) -> list[float]:
    """The losses that the searcher sees."""
    return [math.nan if v is None else v for v in line["seen"]]


def read(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's file, one a batch."""
    return [line for line in _whole(path)[0] if "loss" in line]


def ended(path: Path) -> dict[str, Any]:
    """If a peer's package ended the run: its message (``ended``) and the planned ``trials``; else empty."""
    lines = _whole(path)[0]
    return lines[-1] if lines and "ended" in lines[-1] else {}


def _whole(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Lines up to the first that was cut off, and their bytes."""
    lines, size = [], 0
    for text in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
        size += len(text)
    return lines, size


def peer_driver(job: Job, benchmark: Benchmark) -> Driver:
    """The driver of a peer, whose real package runs in a process of its own environment.

    Raises:
        RuntimeError: the environment is not there.
    """
    entry = PEERS[job.searcher]
    python = interpreter(entry.environment)
    if python is None:
        raise RuntimeError(f"{job.searcher} needs an environment: {how_to_make(entry.environment)}")
    packages = ENVIRONMENTS[entry.environment].packages
    peer = PeerProcess(
        python,
        entry.module,
        entry.factory,
        described(benchmark),
        job.seed,
        job.trials,
        job.batch,
        packages=packages,
    )

    def tell(rows: Sequence[dict], losses: Sequence[float], costs: Sequence[float]) -> None:
        peer.tell([Told(r, v) for r, v in zip(rows, losses, strict=True)])

    return Driver(
        peer.ask,
        tell,
        cpu=lambda: time.process_time() + peer.cpu,
        asks_again=lambda: peer.asks_again,
        close=peer.close,
        versions=peer.versions,
    )


def our_driver(job: Job, benchmark: Benchmark) -> Driver:
    """The driver of a searcher of ours, compiled once per process for all tasks of a space."""
    import jax

    space = benchmark.space
    searcher, ask_jit, tell_jit, judge_jit = _compiled(
        job.searcher, space, job.batch, capacity_for(job.trials), benchmark.pool
    )
    key = jax.random.fold_in(jax.random.key(20231107), job.seed)
    state = searcher.init(key)

    def ask(n: int) -> list[dict[str, Any]]:
        proposal = ask_jit(jax.random.fold_in(key, int(state.history.count)), state)
        configs = np.asarray(proposal.configs)[:n]
        return [space.decode(c) for c in configs]

    measured = metrics_of(job, benchmark)

    def tell(rows: Sequence[dict], losses: Sequence[float], costs: Sequence[float]) -> None:
        nonlocal state
        configs = np.stack([space.encode(r) for r in rows])
        state = jax.block_until_ready(tell_jit(state, configs, measured(losses, costs)))

    def recommend() -> int | None:
        believed = np.asarray(judge_jit(state))
        return int(np.nanargmin(believed)) if np.isfinite(believed).any() else None

    return Driver(ask, tell, recommend=recommend)


def metrics_of(
    job: Job, benchmark: Benchmark
) -> Callable[[Sequence[float], Sequence[float]], np.ndarray]:
    """Makes what a searcher of ours is told, float32 ``[n, 2]``, from losses and log costs.

    Only a searcher that weighs the cost is told of it: relative to the baseline's, as in a search.
    """
    alphas = getattr(variant(job.searcher, job.batch).settings, "alphas", ())
    weight, baseline = (1.0, baseline_cost(benchmark)) if any(alphas) else (0.0, 0.0)

    def measured(losses: Sequence[float], costs: Sequence[float]) -> np.ndarray:
        relative = weight * (np.asarray(costs, np.float64) - baseline)
        return np.stack([np.asarray(losses), relative], axis=1).astype(np.float32)

    return measured


def baseline_cost(benchmark: Benchmark) -> float:
    """The log cost of the baseline, which need not be among the configurations of a pool."""
    configs = np.array([benchmark.space.baseline], np.int32)
    if benchmark.curves is not None and benchmark.curves.cost is not None:
        return float(np.log(benchmark.curves.cost(configs)[0]))
    return float(ask_table(benchmark, configs)[0, 1])


def capacity_for(trials: int) -> int:
    """Rows of a history for so many trials, rounded up so that a longer run seldom recompiles."""
    return 32 * math.ceil((trials + 1) / 32)


@cache
def _compiled(
    name: str, space: Any, batch: int, capacity: int, pool: Pool | None = None
) -> tuple[Any, Any, Any, Any]:
    import jax

    from autorank.base.programs import compiler_options

    searcher = made(name, space, batch, capacity, pool)
    options = compiler_options()
    functions = searcher.ask, searcher.tell, searcher.judge
    ask, tell, judge = (jax.jit(f, compiler_options=options) for f in functions)
    return searcher, ask, tell, judge


def made(name: str, space: Any, batch: int, capacity: int, pool: Pool | None = None) -> Searcher:
    """A searcher of ours by its name in a comparison; of a pool it knows the list, and no trial may be repeated."""
    _, settings, predictor = variant(name, batch)
    listed = None if pool is None else pool.configs
    context = Context(capacity, predictor=predictor, repeats=pool is None, listed=listed)
    return SEARCHERS[settings.name].make(space, settings, context)
