"""Every benchmark by its name, and the best and the typical loss between which regret is measured."""

import csv
import fnmatch
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from autorank.benchmarks.bars import BARS_TASKS, bars
from autorank.benchmarks.base import Benchmark
from autorank.benchmarks.dhen import DHEN_TASKS, dhen_table
from autorank.benchmarks.forest import FOREST_TASKS, forest_benchmark
from autorank.benchmarks.hpo_tables import HPO_TASKS, hpo_table
from autorank.benchmarks.ledger import ledger_benchmark
from autorank.benchmarks.mixed import mixed
from autorank.benchmarks.nested import nested
from autorank.benchmarks.recorded import pool_levels, recorded_benchmark
from autorank.benchmarks.yahpo import LCBENCH_TASKS, lcbench, nb301

# Our own tables are committed beside the other results of a checkout.
RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"
MIXED_SEEDS = ("0", "1", "2")
# Recorded tables of random configurations: committed ones, or those of another folder.
TABLES = Path(os.environ.get("AUTORANK_TABLES", RESULTS / "tables"))


@runtime_checkable
class Maker(Protocol):
    """Makes one benchmark of a suite."""

    def __call__(self, task: str, data: Path, grid_size: int, /) -> Benchmark:
        """The benchmark of a task.

        Args:
            task: one of the suite's.
            data: the suite's own data.
            grid_size: points of a continuous decision.
        """
        ...


class Suite(NamedTuple):
    """Benchmarks that are made alike."""

    tasks: tuple[str, ...]
    make: Maker
    place: str = ""  # of its data in the folder of shared data sets; "" for none
    origin: str = ""  # where the data can be found


SUITES = {
    "lcbench": Suite(
        LCBENCH_TASKS,
        lambda task, data, grid_size: lcbench(task, data, grid_size=grid_size),
        "yahpo/lcbench",
        "the folder lcbench of github.com/slds-lmu/yahpo_data",
    ),
    "nb301": Suite(
        ("v2",),
        lambda task, data, grid_size: nb301(data),
        "yahpo/nb301",
        "the folder nb301 of github.com/slds-lmu/yahpo_data",
    ),
    "fcnet": Suite(HPO_TASKS["fcnet"], lambda task, *_: hpo_table("fcnet", task)),
    "mlp": Suite(HPO_TASKS["mlp"], lambda task, *_: hpo_table("mlp", task)),
    "nasbench201": Suite(HPO_TASKS["nasbench201"], lambda task, *_: hpo_table("nasbench201", task)),
    "bars": Suite(
        BARS_TASKS,
        lambda task, data, grid_size: bars(task, data),
        "bars/tuner_trials.jsonl.gz",
        "the tuning logs of github.com/reczoo/BARS as lines of JSON, as `autorank.benchmarks.bars` reads them",
    ),
    "mixed": Suite(
        MIXED_SEEDS, lambda task, data, grid_size: mixed(int(task), grid_size=grid_size)
    ),
    "mixed_crash": Suite(
        MIXED_SEEDS, lambda task, data, grid_size: mixed(int(task), crash=True, grid_size=grid_size)
    ),
    "nested": Suite(("0",), lambda task, *_: nested(int(task))),
    "dhen": Suite(
        DHEN_TASKS, lambda task, *_: dhen_table(task, RESULTS / f"dhen_table_{task}.csv")
    ),
    # Of committed tables, whatever AUTORANK_TABLES says: their levels are committed too.
    "forest": Suite(
        FOREST_TASKS,
        lambda task, *_: forest_benchmark(task, RESULTS / "tables" / f"{task}.parquet"),
    ),
    "tables": Suite(
        tuple(sorted(file.stem for file in TABLES.glob("*.parquet"))),
        lambda task, *_: recorded_benchmark(task, TABLES / f"{task}.parquet"),
    ),
}
NAMES = tuple(f"{name}/{task}" for name, suite in SUITES.items() for task in suite.tasks)


@cache
def get(name: str, data: Path, grid_size: int = 64) -> Benchmark:
    """The benchmark of a name.

    Args:
        name: ``suite/task``, one of `NAMES`.
        data: the folder of shared data sets.
        grid_size: points of a continuous decision.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: its data are not there; the message says where they can be found.

    Examples:
        >>> benchmark = get("mixed/0", Path("anywhere"), grid_size=8)
        >>> benchmark.space.num_decisions, benchmark.optimum
        (12, 0.0)
        >>> loss, log_cost = benchmark.query([benchmark.space.decode(benchmark.space.baseline)])[0]
        >>> bool(loss > benchmark.optimum)
        True
    """
    if name.startswith("tables/") and name not in NAMES:
        raise ValueError(
            f"{name}: {TABLES} has no {name.partition('/')[2]}.parquet; record it "
            "(python -m experiments.record_table), or name another folder in AUTORANK_TABLES"
        )
    if name not in NAMES:
        raise ValueError(f"{name} is not a benchmark; write one of {', '.join(NAMES)}")
    suite_name, _, task = name.partition("/")
    suite = SUITES[suite_name]
    place = data / suite.place
    if suite.place and not place.exists():
        raise FileNotFoundError(
            f"{name} reads {place}, which is not there: put {suite.origin} there, or name another folder in "
            "AUTORANK_SHARED_DATA"
        )
    return suite.make(task, place, grid_size)


def opened(name: str, data: Path) -> Benchmark:
    """A benchmark by its name, or one that a file holds: a search's ``trials.db``, or a recorded table (``.parquet``).

    Raises:
        ValueError: an unknown name, or a file that is neither or holds no results.
        FileNotFoundError: there is no such file, or the data of a name are not there.
    """
    file = Path(name)
    if file.suffix == ".db":
        return ledger_benchmark(file)
    if file.suffix == ".parquet":
        return recorded_benchmark(file.stem, file)
    return get(name, data)


def matching(globs: str) -> list[str]:
    """The names that match any of comma-separated globs, in the order of the catalogue.

    Raises:
        ValueError: a glob that matches nothing.

    Examples:
        >>> matching("nb301/*,mixed/0")
        ['nb301/v2', 'mixed/0']
    """
    found: set[str] = set()
    for glob in globs.split(","):
        names = set(fnmatch.filter(NAMES, glob.strip()))
        if not names:
            hint = "" if SUITES["tables"].tasks else f"; {TABLES} holds no recorded table"
            raise ValueError(
                f"tasks: no benchmark is called {glob!r}; known: {', '.join(NAMES)}{hint}"
            )
        found |= names
    return [n for n in NAMES if n in found]


class Levels(Mapping[str, tuple[float, float]]):
    """The best known and the median random loss by name; a recorded table is read when it is asked for.

    Args:
        known: those of all benchmarks but the tables.
    """

    def __init__(self, known: Mapping[str, tuple[float, float]]) -> None:
        self._known = dict(known)
        self._tables = [name for name in NAMES if name.startswith("tables/")]

    def __getitem__(self, name: str) -> tuple[float, float]:
        return _table_levels(name) if name in self._tables else self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._known, *self._tables])

    def __len__(self) -> int:
        return len(self._known) + len(self._tables)


def levels(file: Path) -> Levels:
    """The best known and the median random loss by name.

    A recorded table says them itself; the others are in the table of `experiments/comparison/levels.py`.
    """
    with file.open(newline="") as stream:
        return Levels(
            {
                r["benchmark"]: (float(r["best"]), float(r["typical"]))
                for r in csv.DictReader(stream)
            }
        )


@cache
def _table_levels(name: str) -> tuple[float, float]:
    return pool_levels(get(name, RESULTS))
