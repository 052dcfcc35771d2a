"""A table of DHEN configurations: every one of a small grid, trained in one pass over a log, in lanes.

    python -m experiments.comparison.make_dhen_table --data synthetic                   # a million rows, made now
    python -m experiments.comparison.make_dhen_table --data kuairand --path FOLDER      # KuaiRand-Pure's own files
    python -m experiments.comparison.make_dhen_table --data kuairand --prepared FOLDER  # prepared by prepare_data

Writes ``dhen_table_DATA.csv`` and its provenance (.json), which the benchmarks ``dhen/DATA`` read. A group is all
architectures of one width under some of the rates; a width has one compiled program. ``--work`` keeps
finished groups, which are not trained again. ``--minutes`` starts no group later than that; the same command continues.
All configurations get a first seed before any gets a second; the table has the seeds that all have. If a group does
not fit the memory, it trains in fewer lanes. ``--only model.width=8,16`` (repeatable) makes the table of a part of the
grid. An accelerator sums over rows in no fixed order: made again there, values differ in the last digits.
"""

import argparse
import csv
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before JAX is first used
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    # XLA's search for the fastest matrix kernel takes longer than it saves.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    )

import jax
import numpy as np

from autorank.base.metrics import kendall_tau_b
from autorank.benchmarks.dhen import DHEN_TASKS, SEED, dhen_space
from autorank.data.format.batches import Dataset
from autorank.data.logs import kuairand, synthetic
from autorank.data.prepare import store
from autorank.ledger.strict_json import dumps
from autorank.space.space import Space
from autorank.training.lane_pool import MAX_LANES
from experiments.comparison.dhen_training import TAIL, GridTrainer, train_missing
from experiments.comparison.dhen_work import Work, groups_of
from experiments.machine import RESULTS, ROOT, device_name, revision, versions

BATCH = {"synthetic": 1024, "kuairand": 512}
MODELS = 144  # of a group, at most; all architectures of a width under three rates


def log_of(options: argparse.Namespace) -> Dataset:
    """Prepares the log if need be, and loads it."""
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
    """Reads texts ``name=value,value`` as `dhen_space` takes them.

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


def table_rows(
    space: Space, configs: np.ndarray, flops: Sequence[float], work: Work, seeds: int
) -> Iterator[dict[str, str]]:
    """Rows of the CSV, NE with six digits."""
    for i, config in enumerate(configs):
        values = space.decode(config)
        row = {d.name: str(values.get(d.name, "")) for d in dhen_space().decisions}
        runs = [work.ne[i, seed] for seed in range(seeds)]
        known = [r for r in runs if r is not None]
        row |= {
            "ne": f"{np.mean(known):.6f}" if len(known) == seeds else "",
            "flops": f"{flops[i]:.0f}",
        }
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
    out: Path,
    space: Space,
    configs: np.ndarray,
    flops: Sequence[float],
    work: Work,
    seeds: int,
    facts: dict[str, Any],
) -> None:
    """Writes the CSV and, beside it, the provenance."""
    rows = list(table_rows(space, configs, flops, work, seeds))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    failed = sum(not r["ne"] for r in rows)
    counts = {"configurations": len(rows), "seeds_each": seeds, "failed_configurations": failed}
    levels = noise(work, len(rows), seeds) if failed < len(rows) else {}
    stamp = {
        "device": device_name(),
        "git_revision": revision(),
        "versions": versions(),
        "csv_sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    found = counts | levels | {"seconds": round(work.seconds, 1)} | facts | stamp
    out.with_suffix(".json").write_text(dumps(found, indent=1) + "\n")
    print(json.dumps(counts | levels), flush=True)
    print(f"wrote {out}: {len(rows)} configurations, {seeds} seeds each", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    found.add_argument("--data", choices=DHEN_TASKS, default="synthetic")
    found.add_argument("--path", type=Path, help="KuaiRand-Pure's files; fetched if left out")
    found.add_argument("--prepared", type=Path, help="a folder that prepare_data has written")
    found.add_argument("--rows", type=int, default=1_000_000, help="of the synthetic log")
    found.add_argument("--data_seed", type=int, default=0, help="of the synthetic log")
    found.add_argument("--seeds", type=int, default=2, help="of each configuration")
    found.add_argument("--batch", type=int, help=f"rows a step; default {BATCH}")
    found.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    found.add_argument("--only", action="append", default=[], metavar="NAME=VALUE,VALUE")
    found.add_argument("--models", type=int, default=MODELS, help="of a group, at most")
    found.add_argument("--lanes", type=int, default=MAX_LANES, help="models side by side, at most")
    found.add_argument("--minutes", type=float, default=1e9, help="start no group later than this")
    found.add_argument("--folder", type=Path, default=ROOT / "data_cache")
    found.add_argument("--work", type=Path, default=ROOT / "runs" / "dhen_table")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
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
    trainer = GridTrainer(log, values, batch_size, options.precision, options.lanes)
    groups = groups_of(values, options.seeds, options.models)
    print(f"groups of up to {max(len(g.rows) for g in groups)} models", flush=True)
    used = log.schema.num_train // batch_size * batch_size
    left = train_missing(trainer, groups, work, used, options.minutes)
    whole = 0
    while all((i, whole) in work.ne for i in range(len(values))):
        whole += 1
    if whole:
        facts = {
            "command": "python -m experiments.comparison.make_dhen_table",
            "arguments": {
                k: str(v)
                for k, v in vars(options).items()
                if k in ("data", "rows", "data_seed", "only")
            },
            "loss": f"mean NE (click) of the last {TAIL:g} of the windows of one pass, "
            "each batch scored before it is learned from",
            "rows_of_a_pass": used,
            "bayes_ne_of_the_pass": log.schema.notes.get("bayes_ne", {})
            .get("train", {})
            .get("ctr"),
        }
        write(
            options.out / f"dhen_table_{options.data}.csv",
            *(space, configs, trainer.flops, work, whole, facts | belongs),
        )
    if left:
        print(f"{left} groups are left; the same command continues", flush=True)
    return int(left > 0)


if __name__ == "__main__":
    raise SystemExit(main())
