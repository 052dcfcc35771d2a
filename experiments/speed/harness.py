"""Runs a benchmark's variants in turns, each in a process of its own, and reports ratios with their spread.

A benchmark is a `Bench`: its cases (shape, variant) and one function that measures one of them. The driver starts a
process for each case of each round, pinned to one core with one thread. The order alternates from round to round, so
that other load on the machine hits all variants alike. CPU metrics are process CPU time. A ratio is taken within a
round and reported as median, lowest and highest over the rounds.

Rows go to ``experiments/results/bench_<name>.csv``; those of other shapes, variants or devices stay. The tables in
``docs/performance.md`` are made from these files by ``python -m experiments.speed.tables``.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.machine import RESULTS, ROOT, versions
from experiments.speed.figures import Figure, Row, Target, Targets, row_of, show, write

Case = tuple[str, str]  # (shape, variant)


class Measured(NamedTuple):
    """What one process found."""

    figures: Mapping[str, Figure]
    versions: str


class Ratio(NamedTuple):
    """``metric`` of variant ``over`` divided by that of ``under``, on one shape; the target it must reach, if any."""

    shape: str
    metric: str
    over: str
    under: str
    target: float | None = None
    at_most: bool = False  # the target is an upper bound
    shape_under: str = ""  # of the divisor, if it is another shape

    @property
    def variant(self) -> str:
        """Its name in the results."""
        shape = f" at {self.shape_under}" if self.shape_under else ""
        return f"{self.over} / {self.under}{shape}"


class Bench(NamedTuple):
    """A benchmark: ``measure(shape, variant)`` runs in a fresh process and gives its figures by metric."""

    name: str
    cases: Sequence[Case]  # in the order of the table
    measure: Callable[[str, str], Mapping[str, Figure]]
    ratios: Sequence[Ratio] = ()
    # Targets of single figures.
    bounds: Targets = {}
    # Variants that need torch and fuxictr: measured by the interpreter that `peers_python` finds, else left out.
    peers: Collection[str] = ()


def targets_of(bench: Bench) -> Targets:
    """The targets of its ratios and of its single figures."""
    ratios = {
        (r.shape, r.variant, r.metric): Target(r.target, r.at_most)
        for r in bench.ratios
        if r.target is not None
    }
    return ratios | dict(bench.bounds)


def peers_python() -> str | None:
    """The interpreter with the peers (``make peers``): ``AUTORANK_PEERS_PYTHON``, ``.venv-peers``, or this one."""
    asked = os.environ.get("AUTORANK_PEERS_PYTHON")
    if asked:
        return asked
    own = ROOT / ".venv-peers" / "bin" / "python"
    if own.exists():
        return str(own)
    return sys.executable if importlib.util.find_spec("torch") else None


def one_thread(core: int | None) -> dict[str, str]:
    """Environment of a pinned one-thread process (set before any library starts its threads)."""
    limits = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "POLARS_MAX_THREADS",
        "NPROC",
    )
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    environment = os.environ | dict.fromkeys(limits, "1") | {"XLA_FLAGS": flags.strip()}
    if core is not None:
        environment["BENCH_CORE"] = str(core)
    return environment


class Timer:
    """Context manager: CPU seconds and wall seconds of its body."""

    def __enter__(self) -> "Timer":
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu = time.process_time() - self._cpu
        self.wall = time.perf_counter() - self._wall


def run(bench: Bench) -> None:
    """The command line of a bench: ``--rounds``, ``--only TEXT`` (of "shape variant"), ``--list``, ``--no-write``."""
    options = _parser(bench).parse_args()
    if options.one:
        _measure_here(bench, *options.one)
        return
    cases = [c for c in bench.cases if _asked_for(c, options.only)]
    if options.list or not cases:
        print("\n".join(" | ".join(case) for case in bench.cases))
        return
    if peers_python() is None and any(variant in bench.peers for _, variant in cases):
        print("no interpreter with the peers: leaving their variants out (make peers installs one)")
        cases = [case for case in cases if case[1] not in bench.peers]
    environment = one_thread(None if options.core < 0 else options.core)
    rows: list[Row] = []
    for found in _rounds(bench, cases, options.rounds, environment):
        # After each round, so that a bench that is stopped leaves whole rounds.
        rows = summarise(bench, found)
        if not options.no_write:
            write(options.out, rows)
    show(rows, targets_of(bench))
    if not options.no_write:
        print(f"wrote {options.out}")


def _parser(bench: Bench) -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", action="append", default=[], help="cases whose 'shape variant' holds this text"
    )
    parser.add_argument(
        "--core", type=int, default=0, help="pin to this core; -1 leaves the processes free"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / f"bench_{bench.name}.csv")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--list", action="store_true", help="print the cases")
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "VARIANT"), help=argparse.SUPPRESS)
    return parser


def _asked_for(case: Case, texts: Sequence[str]) -> bool:
    """Whether "shape variant" holds one of the texts; all cases if there is none."""
    return not texts or any(text in " ".join(case) for text in texts)


def _measure_here(bench: Bench, shape: str, variant: str) -> None:
    """Measures one case in this process and prints the result for the driver."""
    if "BENCH_CORE" in os.environ and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(os.environ["BENCH_CORE"])})
    figures = {name: tuple(figure) for name, figure in bench.measure(shape, variant).items()}
    print("BENCH " + json.dumps({"figures": figures, "versions": versions()}))


def _rounds(
    bench: Bench, cases: Sequence[Case], rounds: int, environment: Mapping[str, str]
) -> Iterator[dict[Case, list[Measured]]]:
    """After each round, what was measured so far by case."""
    found: dict[Case, list[Measured]] = {case: [] for case in cases}
    started, done = time.perf_counter(), 0
    for index in range(rounds):
        for case in cases if index % 2 == 0 else reversed(cases):
            python = peers_python() if case[1] in bench.peers else sys.executable
            assert python is not None
            found[case].append(_in_process(python, case, environment))
            done += 1
            left = (time.perf_counter() - started) / done * (rounds * len(cases) - done)
            shown = {k: f"{f.value:.4g} {f.unit}" for k, f in found[case][-1].figures.items()}
            name = f"round {index + 1}/{rounds} {' | '.join(case)}"
            print(f"{name}: {shown}, {left:.0f} s left", flush=True)
        yield found


def _in_process(python: str, case: Case, environment: Mapping[str, str]) -> Measured:
    """One measurement in a fresh process; one that fails says why and gives nothing."""
    module = sys.modules["__main__"].__spec__
    assert module is not None, "run it as python -m experiments.speed.NAME"
    done = subprocess.run(
        [python, "-m", module.name, "--one", *case],
        cwd=ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
    )
    for line in done.stdout.splitlines():
        if line.startswith("BENCH "):
            told = json.loads(line[6:])
            figures = {name: Figure(*pair) for name, pair in told["figures"].items()}
            return Measured(figures, told["versions"])
    print(f"{' | '.join(case)} failed:\n{done.stderr[-1500:]}", file=sys.stderr, flush=True)
    return Measured({}, "")


def summarise(bench: Bench, found: Mapping[Case, Sequence[Measured]]) -> list[Row]:
    """Rows of the results: every metric of every case, and every ratio, as median, low and high over rounds."""
    rows = []
    for (shape, variant), rounds in found.items():
        for metric in dict.fromkeys(name for one in rounds for name in one.figures):
            told = [one for one in rounds if metric in one.figures]
            values = [one.figures[metric].value for one in told]
            unit = told[0].figures[metric].unit
            rows.append(row_of(bench.name, shape, variant, metric, unit, values, told[0].versions))
    for ratio in bench.ratios:
        over = found.get((ratio.shape, ratio.over), ())
        under = found.get((ratio.shape_under or ratio.shape, ratio.under), ())
        metric = ratio.metric
        pairs = [
            (a, b)
            for a, b in zip(over, under, strict=False)
            if metric in a.figures and metric in b.figures
        ]
        if not pairs:
            continue
        values = [a.figures[metric].value / b.figures[metric].value for a, b in pairs]
        both = ", ".join(
            dict.fromkeys(text for one in pairs[0] for text in one.versions.split(", "))
        )
        rows.append(row_of(bench.name, ratio.shape, ratio.variant, metric, "x", values, both))
    return rows
