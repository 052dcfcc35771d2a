"""A table of DHEN configurations: every one of a small grid, trained in one pass over a log by the population trainer.

    python experiments/make_dhen_table.py --data synthetic                       # 1,000,000 rows, made on the spot
    python experiments/make_dhen_table.py --data kuairand --path FOLDER          # KuaiRand-Pure's own files
    python experiments/make_dhen_table.py --data kuairand --prepared FOLDER      # prepared arrays (prepare_data.py)

Writes ``dhen_table_DATA.csv`` and its provenance (.json), which the benchmarks ``dhen/DATA`` read. A group is all
architectures of one width under some of the rates: groups of a width share one compiled program. Finished groups are
kept in ``--work`` and not trained again; ``--minutes`` stops before a group that would begin later, and the same
command goes on. All configurations get a first seed before any gets a second; the table has the seeds that all have.
If a group does not fit the memory, write fewer ``--models``.
``--only model.width=8,16`` (repeatable) makes the table of a part of the grid. Sums over rows of an accelerator's
scatters come in no fixed order: made again there, values differ in the last digits.
"""

import argparse
import csv
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # before JAX is first used
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    # As in bench_population.py: XLA's search for the fastest matrix kernel takes longer than it saves.
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false")  # fmt: skip

import _bench
import jax
import jax.numpy as jnp
import numpy as np

from autorank.app.settings import SearchConfig
from autorank.base.metrics import kendall_tau_b
from autorank.base.programs import ProgramCache
from autorank.base.records import with_values
from autorank.benchmarks.dhen import DHEN_TASKS, SEED, dhen_space
from autorank.data.format.batches import Dataset
from autorank.data.logs import kuairand, synthetic
from autorank.data.prepare import store
from autorank.ledger.ledger import dumps
from autorank.models.cost import flops_per_example
from autorank.space.space import Space
from autorank.training.groups import MEMORY_SHARE, Shape, bytes_per_model, free_bytes
from autorank.training.population_programs import PopulationPrograms
from autorank.training.tables import max_distinct
from autorank.training.trainer import Data, Hparams, Schedule, window_ne

TAIL = 0.25  # of the windows whose mean NE is the loss
BATCH = {"synthetic": 1024, "kuairand": 512}
MODELS = 144  # of a group, at most; all architectures of a width under three rates
SIDE_BY_SIDE = 2  # groups on the device: one trains while the next one's tables are drawn


class Group(NamedTuple):
    """Trained together: rows of the grid ``[p]``, and the number of their seed."""

    rows: tuple[int, ...]
    seed: int


def log_of(options: argparse.Namespace) -> Dataset:
    """The prepared log."""
    if options.prepared is not None:
        return store.load(options.prepared)
    if options.data == "kuairand":
        source, name = kuairand.source(options.path), "kuairand_table"
    else:
        source = synthetic.source(options.rows, seed=options.data_seed)
        name = f"synthetic_table_{options.rows}_{options.data_seed}"
    folder = options.folder / name
    store.prepare(source, folder, progress=lambda text: print(text, flush=True))
    return store.load(folder)


def only(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``name=value,value`` as `dhen_space` takes it.

    Raises:
        ValueError: a text without "=", or a name or value that the grid does not have.
    """
    kept: dict[str, list[Any]] = {}
    choices = {d.name: {str(c): c for c in d.choices} for d in dhen_space().decisions}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or name not in choices:
            known = ", ".join(choices)
            raise ValueError(f"--only {text}: write NAME=VALUE,VALUE with a name of {known}")
        for value in values.split(","):
            if value not in choices[name]:
                raise ValueError(f"--only {text}: {value} is none of {', '.join(choices[name])}")
            kept.setdefault(name, []).append(choices[name][value])
    return kept


def groups_of(
    values: Sequence[dict[str, Any]], seeds: int, sizes: Sequence[int], most: int, free: int
) -> list[Group]:
    """All of the grid, first seed first; groups of one width hold the same architectures in the same order.

    Args:
        values: every configuration.
        seeds: of each.
        sizes: device bytes of each.
        most: models of a group; a group has at least all architectures of one width under one pair of rates.
        free: bytes for one group.
    """
    by_width: dict[int, dict[tuple, list[int]]] = {}
    for i, v in enumerate(values):
        rates = tuple(v[k] for k in v if k.startswith("training."))
        by_width.setdefault(v["model.width"], {}).setdefault(rates, []).append(i)
    found = []
    for width in sorted(by_width):
        rates = list(by_width[width].values())
        largest = max(sum(sizes[i] for i in rows) for rows in rates)
        fits = max(1, min(most // len(rates[0]), free // largest))
        # As equal as they can be, so that they share a program.
        fits = max(n for n in range(1, fits + 1) if len(rates) % n == 0)
        found += [
            tuple(i for rows in rates[at : at + fits] for i in rows)
            for at in range(0, len(rates), fits)
        ]
    return [Group(rows, seed) for seed in range(seeds) for rows in found]


class Work:
    """Finished groups, one JSON line each after a line that says what they belong to; safe for threads."""

    def __init__(self, file: Path, belongs: dict[str, Any]) -> None:
        self._file, self._lock = file, threading.Lock()
        self.ne: dict[tuple[int, int], float | None] = {}  # (row, seed) -> NE, None: failed
        self.seconds = 0.0  # wall clock of all calls, compiling included
        lines = []
        if file.exists():
            for text in file.read_text().splitlines():
                try:
                    lines.append(json.loads(text))
                except json.JSONDecodeError:
                    break  # cut off
        if lines and lines[0] != belongs:
            differ = sorted(k for k in belongs if lines[0].get(k) != belongs[k])
            raise ValueError(
                f"{file} belongs to another table ({', '.join(differ)} differ); remove it, or write --work ELSEWHERE"
            )
        for line in lines[1:]:
            self._take(line)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in [belongs, *lines[1:]])

    def _take(self, line: dict[str, Any]) -> None:
        if "call_seconds" in line:
            self.seconds += line["call_seconds"]
            return
        for row, ne in zip(line["rows"], line["ne"], strict=True):
            self.ne[row, line["seed"]] = ne

    def __contains__(self, group: Group) -> bool:
        with self._lock:
            return all((row, group.seed) in self.ne for row in group.rows)

    def add(self, group: Group, ne: np.ndarray) -> None:
        """A finished group's NE ``[p]``; NaN is a failed run."""
        plain = [float(v) if np.isfinite(v) else None for v in ne]
        self._append({"rows": group.rows, "seed": group.seed, "ne": plain})

    def add_seconds(self, seconds: float) -> None:
        """What a call took; of one that was killed nothing is known."""
        self._append({"call_seconds": round(seconds, 1)})

    def _append(self, line: dict[str, Any]) -> None:
        with self._lock, self._file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
            self._take(line)


class Trainer(NamedTuple):
    """What one log and one grid need."""

    compile: Any  # rows -> seconds
    train: Any  # group -> NE [p] with NaN for failed runs, seconds
    sizes: list[int]  # device bytes of each configuration
    flops: list[float]  # forward, of a row


def trainer(
    log: Dataset, values: Sequence[dict[str, Any]], batch_size: int, precision: str
) -> Trainer:
    """Programs and data on the device; settings that the grid does not have are the defaults."""
    defaults = SearchConfig()
    part, schema = log.train(), log.schema
    num_steps, windows = schema.num_train // batch_size, defaults.training.num_windows
    if num_steps < windows:
        raise ValueError(
            f"--batch {batch_size}: {schema.num_train} training rows are {num_steps} steps, "
            f"fewer than {windows} windows"
        )
    fields, dense = len(schema.fields), len(schema.dense)
    settings = [with_values(defaults, v) for v in values]
    models = [s.model for s in settings]
    rates = [
        Hparams(**{name: jnp.float32(getattr(s.training, name)) for name in Hparams._fields})
        for s in settings
    ]
    shape = Shape(fields, dense, schema.num_ids, batch_size, windows, num_steps, schema.unknown_ids)
    warmup = max(1, round(defaults.training.warmup_share * num_steps))
    schedule = Schedule(jnp.int32(num_steps), jnp.int32(warmup))
    data = Data(
        jnp.asarray(part.sparse),
        jnp.asarray(part.dense, jnp.float32),
        jnp.asarray(part.labels, jnp.float32),
    )
    populations = PopulationPrograms(
        data,
        schedule,
        shape,
        ProgramCache(),
        dtype=jnp.dtype(precision),
        most_distinct=max_distinct(part.sparse, batch_size),
    )
    device = jax.local_devices()[0]

    def compiled(rows: Sequence[int]) -> tuple[Any, Any, float]:
        own = [models[i] for i in rows]
        layout = populations.layout(own)
        program, seconds = populations.compile(layout, own, device)
        return layout, program, seconds

    def train(group: Group) -> tuple[np.ndarray, float]:
        own = [models[i] for i in group.rows]
        layout, program, _ = compiled(group.rows)
        # Seeds of their own: two configurations do not share the luck of one draw.
        seeds = [group.seed * len(values) + i for i in group.rows]
        result = populations.train(
            program, layout, own, seeds, [rates[i] for i in group.rows], device, num_steps
        )
        last = window_ne(result.curves)[-round(TAIL * windows) :, :, 0]
        ne = np.where(result.failed_steps < 0, last.mean(axis=0), np.nan)
        return ne, result.seconds

    return Trainer(
        lambda rows: compiled(rows)[2],
        train,
        [bytes_per_model(m, shape) for m in models],
        [float(flops_per_example(m, fields, dense)) for m in models],
    )


def make(
    trainer: Trainer, groups: Sequence[Group], work: Work, model_rows: int, minutes: float
) -> int:
    """Trains what is missing; returns the number of groups that are left.

    Args:
        model_rows: rows of one model's pass, for the progress.
        minutes: no group begins after these.
    """
    started = time.perf_counter()
    missing = [g for g in groups if g not in work]
    print(f"{len(groups)} groups, {len(groups) - len(missing)} there", flush=True)
    done = models = 0
    places, alone = threading.Semaphore(SIDE_BY_SIDE), threading.Lock()
    with ThreadPoolExecutor(8) as compilers, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        # One of each kind: the others find the program.
        kinds = dict.fromkeys(g.rows for g in missing)
        compiling: dict[Future, tuple[int, ...]] = {
            compilers.submit(trainer.compile, rows): rows for rows in kinds
        }
        threading.Thread(target=report_compiling, args=(compiling, started), daemon=True).start()

        def one(group: Group) -> tuple[Group, np.ndarray, float] | None:
            with places:
                if time.perf_counter() - started > 60 * minutes:
                    return None
                try:
                    return group, *trainer.train(group)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
            print(f"{len(group.rows)} models did not fit beside others; again, alone", flush=True)
            with alone:
                for _ in range(SIDE_BY_SIDE):
                    places.acquire()
                try:
                    return group, *trainer.train(group)
                finally:
                    places.release(SIDE_BY_SIDE)

        for future in as_completed([pool.submit(one, g) for g in missing]):
            found = future.result()
            if found is None:
                continue
            group, ne, seconds = found
            work.add(group, ne)
            done, models = done + 1, models + len(group.rows)
            passed = time.perf_counter() - started
            left = passed / done * (len(missing) - done)
            print(
                f"{done}/{len(missing)} seed {group.seed}, {len(group.rows)} models in {seconds:.1f} s, "
                f"{np.isnan(ne).sum()} failed, best NE {np.nanmin(ne):.5f}; {passed:.0f} s in all, "
                f"{models * model_rows / passed / 1e6:.2f} M model-rows/s with compiling, about {left:.0f} s left",
                flush=True,
            )
    if done:
        work.add_seconds(time.perf_counter() - started)
    return len(missing) - done


def report_compiling(compiling: dict[Future, tuple[int, ...]], started: float) -> None:
    """Says what is compiled as it is."""
    for future in as_completed(compiling):
        if future.exception() is None and future.result():
            print(
                f"compiled for {len(compiling[future])} models in {future.result():.1f} s, "
                f"{time.perf_counter() - started:.0f} s after the start",
                flush=True,
            )


def table_rows(
    space: Space, configs: np.ndarray, flops: Sequence[float], work: Work, seeds: int
) -> Iterator[dict[str, str]]:
    """Rows of the CSV, NE with six digits."""
    for i, config in enumerate(configs):
        values = space.decode(config)
        row = {d.name: str(values.get(d.name, "")) for d in dhen_space().decisions}
        runs = [work.ne[i, seed] for seed in range(seeds)]
        known = [r for r in runs if r is not None]
        row |= {"ne": f"{np.mean(known):.6f}" if len(known) == seeds else "", "flops": f"{flops[i]:.0f}"}  # fmt: skip
        yield row | {f"{SEED}{s}": "" if r is None else f"{r:.6f}" for s, r in enumerate(runs)}


def noise(work: Work, count: int, seeds: int) -> dict[str, float]:
    """Levels of the mean NE and how far seeds agree, over configurations that never failed."""
    runs = np.array([[work.ne[i, s] for s in range(seeds)] for i in range(count)], np.float64)
    whole = runs[np.isfinite(runs).all(axis=1)]
    found = {
        "best_ne": float(whole.mean(axis=1).min()),
        "median_ne": float(np.median(whole.mean(axis=1))),
    }
    if seeds > 1:
        found["seed_noise_sd_of_one_run"] = float(np.sqrt(whole.var(axis=1, ddof=1).mean()))
        found["kendall_tau_of_two_seeds"] = kendall_tau_b(whole[:, 0], whole[:, 1])
    return {k: float(f"{v:.6g}") for k, v in found.items() if np.isfinite(v)}


def write(
    out: Path, space: Space, configs: np.ndarray, trainer: Trainer, work: Work, seeds: int, facts: dict[str, Any]
) -> None:  # fmt: skip
    """The CSV and, beside it, the provenance."""
    rows = list(table_rows(space, configs, trainer.flops, work, seeds))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    failed = sum(not r["ne"] for r in rows)
    counts = {"configurations": len(rows), "seeds_each": seeds, "failed_configurations": failed}
    levels = noise(work, len(rows), seeds) if failed < len(rows) else {}
    stamp = {
        "device": _bench.device_name(),
        "git_revision": _bench.revision(),
        "versions": _bench.versions(),
        "csv_sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    found = counts | levels | {"seconds": round(work.seconds, 1)} | facts | stamp
    out.with_suffix(".json").write_text(dumps(found, indent=1) + "\n")
    print(json.dumps(counts | levels), flush=True)
    print(f"wrote {out}: {len(rows)} configurations, {seeds} seeds each", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line's."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    found.add_argument("--data", choices=DHEN_TASKS, default="synthetic")
    found.add_argument("--path", type=Path, help="KuaiRand-Pure's files; fetched if left out")
    found.add_argument("--prepared", type=Path, help="a folder that prepare_data.py has written")
    found.add_argument("--rows", type=int, default=1_000_000, help="of the synthetic log")
    found.add_argument("--data_seed", type=int, default=0, help="of the synthetic log")
    found.add_argument("--seeds", type=int, default=2, help="of each configuration")
    found.add_argument("--batch", type=int, help=f"rows a step; default {BATCH}")
    found.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    found.add_argument("--only", action="append", default=[], metavar="NAME=VALUE,VALUE")
    found.add_argument("--models", type=int, default=MODELS, help="of a group, at most")
    found.add_argument("--minutes", type=float, default=1e9, help="no group begins after these")
    found.add_argument("--folder", type=Path, default=_bench.ROOT / "data_cache")
    found.add_argument("--work", type=Path, default=_bench.ROOT / "runs" / "dhen_table")
    found.add_argument("--out", type=Path, default=_bench.RESULTS, help="folder of the table")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes or continues one table; 1 if groups are left."""
    cli = parser()
    options = cli.parse_args(arguments)
    batch_size = options.batch or BATCH[options.data]
    try:
        space = dhen_space(only(options.only))
    except ValueError as error:
        cli.error(str(error))
    configs = space.enumerate(space.cardinality())
    values = [space.decode(c) for c in configs]
    log = log_of(options)
    print(
        f"{jax.devices()}; {len(values)} configurations, {log.schema.num_train:,} training rows, "
        f"{log.schema.num_ids:,} ids",
        flush=True,
    )
    belongs = {
        "data": options.data,
        "data_fingerprint": log.fingerprint(),
        "space": space.fingerprint(),
        "batch_size": batch_size,
        "precision": options.precision,
        "settings": "defaults of autorank.app.settings.SearchConfig",
    }
    work = Work(options.work / f"dhen_table_{options.data}.jsonl", belongs)
    made = trainer(log, values, batch_size, options.precision)
    free = int(MEMORY_SHARE * free_bytes(jax.local_devices()[0])) // SIDE_BY_SIDE
    groups = groups_of(values, options.seeds, made.sizes, options.models, free)
    largest = max(sum(made.sizes[i] for i in g.rows) for g in groups)
    most = max(len(g.rows) for g in groups)
    print(f"groups of up to {most} models, about {largest / 2**30:.1f} GiB at most", flush=True)
    used = log.schema.num_train // batch_size * batch_size
    left = make(made, groups, work, used, options.minutes)
    whole = 0
    while all((i, whole) in work.ne for i in range(len(values))):
        whole += 1
    if whole:
        facts = {
            "command": "python experiments/make_dhen_table.py",
            "arguments": {k: str(v) for k, v in vars(options).items() if k in ("data", "rows", "data_seed", "only")},
            "loss": f"mean NE (click) of the last {TAIL:g} of the windows of one pass, "
            "each batch scored before it is learned from",
            "rows_of_a_pass": used,
            "bayes_ne_of_the_pass": log.schema.notes.get("bayes_ne", {}).get("train", {}).get("ctr"),
        }  # fmt: skip
        write(
            options.out / f"dhen_table_{options.data}.csv",
            *(space, configs, made, work, whole, facts | belongs),
        )
    if left:
        print(f"{left} groups are left; the same command goes on", flush=True)
    return int(left > 0)


if __name__ == "__main__":
    raise SystemExit(main())
