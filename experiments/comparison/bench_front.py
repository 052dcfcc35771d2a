"""Which searcher finds more of the front of quality and cost with the same number of trials.

python -m experiments.comparison.bench_front                            all searchers but the slow ones, all tasks
python -m experiments.comparison.bench_front --searchers optuna-gp --seeds 3 --noise 0
python -m experiments.comparison.bench_front --searchers front+margin=0 --first-seed 100   the front with other settings

``front`` is autorank with search.goal=front, ``best`` with its default goal, ``random`` random search: these propose
ten trials at a time, as a search does. Peers (docs/peers.md) are told of each trial before the next. Runs that the
table has are not run again. The table grows after each run, so that a stopped command goes on.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autorank.app.programs import set_up_jax
from autorank.base.jax_settings import own_settings
from autorank.base.programs import compiler_options
from autorank.searchers.base import SEARCHERS, Context
from experiments.comparison.front_peers import FrontPeer
from experiments.comparison.fronts import TASKS, FrontTask, front_task
from experiments.comparison.noise import RECORDED, noise_of, noise_text
from experiments.comparison.peers.base import described
from experiments.comparison.peers.catalogue import FRONT_PEERS
from experiments.machine import RESULTS, processor_name, revision, versions

TABLE = RESULTS / "bench_front.csv"
POINTS = (20, 50, 100)
BATCH = 10  # trials that ours propose at a time
OURS = ("front", "best", "random")
QUICK = ("optuna-nsga2", "optuna-tpe")  # peers that take no more than a second or two a run
PACKAGES: set[str] = set()  # of the peers that this process has run, with their versions
FIELDS = (
    "task",
    "noise",
    "searcher",
    "seed",
    "trials",
    "hypervolume",
    "tried",
    "equal_cost",
    "equal_quality",
    "cpu_seconds",
)
Row = dict[str, Any]


@cache
def compiled(name: str, task_name: str) -> tuple[Any, Any, Any, Any]:
    """A searcher of ours by its name here, and its compiled functions."""
    task = front_task(task_name)
    base, *changes = name.split("+")
    entry = SEARCHERS["random" if base == "random" else "autorank"]
    settings: Any = entry.settings(batch_size=BATCH)
    for change in changes:
        key, text = change.split("=")
        settings = replace(settings, **{key: json.loads(text)})
    goal = "best" if base == "best" else "front"
    context = Context(max(POINTS), repeats=True, goal=goal, cost=task.known_cost)
    made = entry.make(task.benchmark.space, settings, context)
    options = compiler_options()
    ask, tell, judge = (
        jax.jit(f, compiler_options=options) for f in (made.ask, made.tell, made.judge)
    )
    return made.init, ask, tell, judge


def our_run(name: str, task: FrontTask, noise: float | str, seed: int) -> Iterator[Row]:
    """A run of a searcher of ours; its front is that of what it believes."""
    init, ask, tell, judge = compiled(name, task.benchmark.name)
    draw = np.random.default_rng([seed, 11])
    state, truth, started = init(jax.random.key(seed)), np.zeros((0, 2)), time.process_time()
    while len(truth) < max(POINTS):
        key = jax.random.fold_in(jax.random.key(seed), len(truth))
        configs = np.asarray(ask(key, state).configs)
        rows = [task.benchmark.space.decode(c) for c in configs]
        truth = np.concatenate([truth, task.truth(rows)])
        state = tell(state, configs, task.told(draw, noise, rows).astype(np.float32))
        if len(truth) in POINTS:
            believed = np.asarray(judge(state))[: len(truth)]
            spent = time.process_time() - started
            yield measured(task, truth, believed.astype(np.float64), spent)


def peer_run(name: str, task: FrontTask, noise: float | str, seed: int) -> Iterator[Row]:
    """A run of a peer; its front is that of what it was told."""
    draw = np.random.default_rng([seed, 11])
    truth, seen = np.zeros((0, 2)), np.zeros(0)
    with closing(FrontPeer(name, described(task.benchmark), seed, max(POINTS))) as peer:
        PACKAGES.update(f"{k} {v}" for k, v in peer.versions.items())
        while len(truth) < max(POINTS):
            rows = [peer.ask_one()]
            truth = np.concatenate([truth, task.truth(rows)])
            told = task.told(draw, noise, rows)
            peer.tell_both(told[0])
            seen = np.append(seen, told[0, 0])
            if len(truth) in POINTS:
                yield measured(task, truth, seen, peer.cpu)


def measured(task: FrontTask, truth: np.ndarray, believed: np.ndarray, spent: float) -> Row:
    """A row of the table, without what names the run."""
    found = {k: f"{v:.6g}" for k, v in task.measure(truth, believed)._asdict().items()}
    return {"trials": len(truth)} | found | {"cpu_seconds": f"{spent:.4g}"}


def read(path: Path) -> list[Row]:
    """The rows of a table; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def run_of(row: Row) -> tuple[str, str, str, int]:
    """Task, noise, searcher and seed of a row, in the order of the table."""
    return row["task"], row["noise"], row["searcher"], int(row["seed"])


def write(path: Path, rows: Sequence[Row]) -> None:
    """The table, and beside it what made it."""
    rows = sorted(rows, key=lambda r: (*run_of(r), int(r["trials"])))
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as stream:
        writer: csv.DictWriter[str] = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
    beside = path.with_suffix(".json")
    about = json.loads(beside.read_text()) if beside.exists() else {}
    now = {
        "revisions": revision(),
        "devices": processor_name(),
        "versions": ", ".join([versions(), *sorted(PACKAGES)]),
    }
    about = {k: sorted({*about.get(k, ()), v}) for k, v in now.items()}
    beside.write_text(json.dumps(about | {"batch of ours": BATCH}, indent=1) + "\n")


def noises_of(task: str, asked: Sequence[str]) -> list[float | str]:
    """The noises of a task among those asked for: recorded ones belong to recorded tables, other ones to functions."""
    found = [noise_of(text) for text in asked]
    table = task.startswith("dhen/")
    return [n for n in found if n == 0.0 or (n == RECORDED) == table]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = (*OURS, *FRONT_PEERS)
    parser.add_argument("--searchers", nargs="+", default=[*OURS, *QUICK], help=", ".join(every))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help=", ".join(TASKS))
    parser.add_argument(
        "--noise", nargs="+", default=["0", "0.1", RECORDED], help="as of bench_search"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args(argv)
    for name in options.searchers:
        if name.split("+")[0] not in every:
            parser.error(f"--searchers {name}: write some of {', '.join(every)}")
    rows = read(options.table)
    known = {run_of(row) for row in rows}
    for name in options.searchers:
        for task_name in options.tasks:
            task = front_task(task_name)
            for noise in noises_of(task_name, options.noise):
                for seed in range(options.first_seed, options.first_seed + options.seeds):
                    run = (task_name, noise_text(noise), name, seed)
                    if run in known:
                        continue
                    kind = peer_run if name in FRONT_PEERS else our_run
                    named: Row = dict(zip(FIELDS, run, strict=False))
                    rows += [named | row for row in kind(name, task, noise, seed)]
                    write(options.table, rows)
                print(name, task_name, noise_text(noise), "done", flush=True)
    return 0


if __name__ == "__main__":
    set_up_jax()
    with own_settings():
        sys.exit(main())
