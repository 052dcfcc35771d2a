"""Every benchmark by name, and the levels that its regret is measured between."""

import csv
from functools import cache
from pathlib import Path

from autorank.benchmarks.base import Benchmark
from autorank.benchmarks.dhen import DHEN_TASKS, dhen_table
from autorank.benchmarks.mixed import mixed
from autorank.benchmarks.tables import BARS_TASKS, HPO_TASKS, bars, hpo_table
from autorank.benchmarks.yahpo import LCBENCH_TASKS, lcbench, nb301

MIXED_SEEDS = ("0", "1", "2")
# Our own tables are committed beside the other results of a checkout.
RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"
# What the issue of a search's quality is decided on, by suite.
SUITES: dict[str, tuple[str, ...]] = {
    "lcbench": LCBENCH_TASKS,
    "nb301": ("v2",),
    **HPO_TASKS,
    "bars": BARS_TASKS,
    "mixed": MIXED_SEEDS,
    "mixed_crash": MIXED_SEEDS,
    "dhen": DHEN_TASKS,
}
# What lies where in the folder of shared data sets, and where it comes from.
SOURCES = {
    "lcbench": ("yahpo/lcbench", "the folder lcbench of github.com/slds-lmu/yahpo_data"),
    "nb301": ("yahpo/nb301", "the folder nb301 of github.com/slds-lmu/yahpo_data"),
    "bars": (
        "bars/tuner_trials.jsonl.gz",
        "the tuning logs of github.com/reczoo/BARS as lines of JSON, as `tables.bars` reads them",
    ),
}
NAMES = tuple(f"{suite}/{task}" for suite, tasks in SUITES.items() for task in tasks)


@cache
def get(name: str, data: Path, grid_size: int = 64) -> Benchmark:
    """The benchmark called ``suite/task``; ``data`` is the folder of shared data sets.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: its data are not there; says where they come from.
    """
    suite, _, task = name.partition("/")
    if name not in NAMES:
        raise ValueError(f"{name} is not a benchmark; write one of {', '.join(NAMES)}")
    if suite in SOURCES:
        place, origin = SOURCES[suite]
        if not (data / place).exists():
            raise FileNotFoundError(
                f"{name} reads {data / place}, which is not there: put {origin} there, or name another folder in "
                "AUTORANK_SHARED_DATA"
            )
    if suite == "lcbench":
        return lcbench(task, data / SOURCES[suite][0], grid_size=grid_size)
    if suite == "nb301":
        return nb301(data / SOURCES[suite][0])
    if suite == "bars":
        return bars(task, data / SOURCES[suite][0])
    if suite in HPO_TASKS:
        return hpo_table(suite, task)
    if suite == "dhen":
        return dhen_table(task, RESULTS / f"dhen_table_{task}.csv")
    return mixed(int(task), crash=suite == "mixed_crash", grid_size=grid_size)


def matching(globs: str) -> list[str]:
    """Names that match any of comma-separated globs, in order.

    Raises:
        ValueError: a glob that matches nothing.
    """
    import fnmatch

    found: set[str] = set()
    for glob in globs.split(","):
        names = set(fnmatch.filter(NAMES, glob.strip()))
        if not names:
            raise ValueError(f"tasks: no benchmark is called {glob!r}; known: {', '.join(NAMES)}")
        found |= names
    return [n for n in NAMES if n in found]


def levels(file: Path) -> dict[str, tuple[float, float]]:
    """Best known and median random loss by name, from ``experiments/comparison/levels.py``'s table."""
    with file.open(newline="") as stream:
        return {
            r["benchmark"]: (float(r["best"]), float(r["typical"])) for r in csv.DictReader(stream)
        }
