"""What every `bench_*.py` shares: variants in turns, each in a process of its own, ratios with their spread.

A bench is a `Bench`: the cases (shape, variant) and one function that measures one of them. The driver starts a process
for each case of each round, pinned to one core with one thread, in an order that alternates from round to round, so
that whatever else the machine does hits all variants alike. CPU metrics are process CPU time. A ratio is taken within a
round and reported as median, lowest and highest over the rounds.

Rows go to ``experiments/results/bench_<name>.csv``; those of other shapes, variants or devices stay. The tables in
``docs/performance.md`` are made from these files by ``python experiments/bench_tables.py``.
"""

import argparse
import csv
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
COLUMNS = (
    "bench", "shape", "variant", "metric", "unit", "median", "low", "high", "repeats", "device", "versions",
    "git revision",
)  # fmt: skip
KEY = ("bench", "shape", "variant", "metric", "device")
PACKAGES = ("jax", "jaxlib", "numpy", "numba", "torch", "fuxictr", "polars", "pandas", "pyarrow")


class Figure(NamedTuple):
    """One measured value."""

    value: float
    unit: str


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
    cases: Sequence[tuple[str, str]]  # (shape, variant), in the order of the table
    measure: Callable[[str, str], Mapping[str, Figure]]
    ratios: Sequence[Ratio] = ()
    # Bounds on single figures: (shape, variant, metric) -> (bound, at_most).
    bounds: Mapping[tuple[str, str, str], tuple[float, bool]] = {}
    # Variants that need torch and fuxictr: measured by the interpreter that `peers_python` finds, else left out.
    peers: Collection[str] = ()


def targets_of(bench: Bench) -> dict[tuple[str, str, str], tuple[float, bool]]:
    """(shape, variant, metric) -> (target, whether it is an upper bound), of ratios and of single figures."""
    ratios = {
        (r.shape, r.variant, r.metric): (r.target, r.at_most)
        for r in bench.ratios
        if r.target is not None
    }
    return ratios | dict(bench.bounds)


def met(value: float, target: tuple[float, bool]) -> bool:
    """Whether a figure reaches its target."""
    bound, at_most = target
    return value <= bound if at_most else value >= bound


def peers_python() -> str | None:
    """The interpreter with the peers (``make peers``): ``AUTORANK_PEERS_PYTHON``, ``.venv-peers``, or this one."""
    asked = os.environ.get("AUTORANK_PEERS_PYTHON")
    if asked:
        return asked
    own = ROOT / ".venv-peers" / "bin" / "python"
    if own.exists():
        return str(own)
    return sys.executable if importlib.util.find_spec("torch") else None


def device_name() -> str:
    """The accelerator that JAX would use, or the processor."""
    try:
        text = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout.strip()  # fmt: skip
        if text:
            return text.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        pass
    return processor_name()


def processor_name() -> str:
    """The processor, of which one core is used."""
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ()
    ):
        if line.startswith("model name"):
            return f"1 core of {line.split(':', 1)[1].strip()}"
    return platform.processor() or platform.machine()


def versions() -> str:
    """Versions of what was measured, in one cell."""
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def revision() -> str:
    """The commit, with a plus if the tree differs from it; ``BENCH_REVISION`` where there is no repository."""
    if "BENCH_REVISION" in os.environ:
        return os.environ["BENCH_REVISION"]
    from autorank.base.code_revision import code_revision

    return code_revision() or "unknown"


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
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
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
    options = parser.parse_args()
    if options.one:
        if "BENCH_CORE" in os.environ and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {int(os.environ["BENCH_CORE"])})
        figures = bench.measure(*options.one)
        found_figures = {name: tuple(figure) for name, figure in figures.items()}
        print("BENCH " + json.dumps({"figures": found_figures, "versions": versions()}))
        return
    cases = [
        c
        for c in bench.cases
        if not options.only or any(text in " ".join(c) for text in options.only)
    ]
    if options.list or not cases:
        print("\n".join(" | ".join(case) for case in bench.cases))
        return
    if peers_python() is None and any(variant in bench.peers for _, variant in cases):
        print(
            "no interpreter with the peers: their variants are left out (make peers installs one)"
        )
        cases = [case for case in cases if case[1] not in bench.peers]
    found: dict[tuple[str, str], list[Measured]] = {case: [] for case in cases}
    environment = one_thread(None if options.core < 0 else options.core)
    started, done = time.perf_counter(), 0
    rows: list[dict[str, str]] = []
    for round_index in range(options.rounds):
        for case in cases if round_index % 2 == 0 else reversed(cases):
            python = peers_python() if case[1] in bench.peers else sys.executable
            assert python is not None
            found[case].append(_in_process(python, case, environment))
            done += 1
            left = (time.perf_counter() - started) / done * (options.rounds * len(cases) - done)
            shown = {k: f"{f.value:.4g} {f.unit}" for k, f in found[case][-1].figures.items()}
            name = f"round {round_index + 1}/{options.rounds} {' | '.join(case)}"
            print(f"{name}: {shown}, {left:.0f} s left", flush=True)
        # After each round, so that a bench that is stopped leaves whole rounds.
        rows = summarise(bench, found)
        if not options.no_write:
            write(options.out, rows)
    show(bench, rows)
    if not options.no_write:
        print(f"wrote {options.out}")


def _in_process(python: str, case: tuple[str, str], environment: Mapping[str, str]) -> Measured:
    """One measurement in a fresh process; one that fails says why and gives nothing."""
    script = sys.modules["__main__"].__file__
    assert script is not None
    done = subprocess.run(
        [python, script, "--one", *case],
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


def summarise(
    bench: Bench, found: Mapping[tuple[str, str], Sequence[Measured]]
) -> list[dict[str, str]]:
    """Rows of the results: every metric of every case, and every ratio, as median, low and high over rounds."""
    stamp = {"device": device_name(), "git revision": revision()}

    def row(
        shape: str,
        variant: str,
        metric: str,
        unit: str,
        values: Sequence[float],
        measured_with: str,
    ) -> dict[str, str]:
        spread = {"median": statistics.median(values), "low": min(values), "high": max(values)}
        numbers = {name: f"{value:.5g}" for name, value in spread.items()} | {
            "repeats": str(len(values))
        }
        names = {"bench": bench.name, "shape": shape, "variant": variant}
        names |= {"metric": metric, "unit": unit, "versions": measured_with}
        return names | numbers | stamp

    rows = []
    for (shape, variant), rounds in found.items():
        for metric in dict.fromkeys(name for one in rounds for name in one.figures):
            told = [one for one in rounds if metric in one.figures]
            values = [one.figures[metric].value for one in told]
            unit = told[0].figures[metric].unit
            rows.append(row(shape, variant, metric, unit, values, told[0].versions))
    for ratio in bench.ratios:
        over = found.get((ratio.shape, ratio.over), ())
        under = found.get((ratio.shape_under or ratio.shape, ratio.under), ())
        pairs = [
            (a, b)
            for a, b in zip(over, under, strict=False)
            if ratio.metric in a.figures and ratio.metric in b.figures
        ]
        values = [a.figures[ratio.metric].value / b.figures[ratio.metric].value for a, b in pairs]
        if pairs:
            both = ", ".join(
                dict.fromkeys(text for one in pairs[0] for text in one.versions.split(", "))
            )
            rows.append(row(ratio.shape, ratio.variant, ratio.metric, "x", values, both))
    return rows


def show(bench: Bench, rows: Sequence[Mapping[str, str]]) -> None:
    """The rows as a table, with the targets."""
    targets = targets_of(bench)
    for row in rows:
        target = targets.get((row["shape"], row["variant"], row["metric"]))
        note = ""
        if target:
            sign = "<=" if target[1] else ">="
            note = f"  target {sign} {target[0]:g}: {'met' if met(float(row['median']), target) else 'SHORT'}"
        print(
            f"{row['shape']:28s} {row['variant']:44s} {row['metric']:16s} {row['median']:>10s} "
            f"[{row['low']}, {row['high']}] {row['unit']}{note}"
        )


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a results file; none if there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Adds rows to a results file in place of older ones with the same `KEY`."""
    kept = {tuple(row[c] for c in KEY): row for row in [*read(path), *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())
    partial.replace(path)
