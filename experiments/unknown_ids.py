"""What the row of unknown ids should be: zero and untrained, trained by rare values, or trained by id dropout.

    python -m experiments.unknown_ids seeds=10
    python -m experiments.unknown_ids data=kuairand data.path=FOLDER seeds=10

Trains the baseline of the data set with each kind of row and several seeds. Prints the NE of its first metric on
validation windows, and on the held-out rows by the trained model (frozen, as it is exported) and by one that goes on
learning (progressive), with the paired difference from the zero row. Writes ``results/unknown_ids_<data>.csv``.

"zero" is what searches do. "trained": every training value seen less than ``data.min_count`` times shares the row.
"dropout": each id of a training row is replaced by its field's unknown id with the given probability, the same ids for
all seeds. Expected (MovieLens, 10 seeds, 2 minutes on 2 cores): "trained" is about 2 % worse than "zero" when frozen,
dropout no better.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
import numpy as np
from omegaconf import DictConfig

from autorank.app.programs import CONFIGS, register, set_up_jax, settings
from autorank.app.settings import TrainConfig
from autorank.base.cores import available_cores

if TYPE_CHECKING:  # JAX is set up before it is imported
    from autorank.data.format.batches import Dataset
    from autorank.training.step import Data
    from autorank.training.trainer import Program

register()
DROPOUT = {"dropout .01": 0.01, "dropout .03": 0.03, "dropout .1": 0.1}
KINDS = ("zero", "trained", *DROPOUT)
MEASURES = ("validation", "held-out frozen", "held-out progressive")
TAIL = 0.25  # of the windows: validation


class Row(NamedTuple):
    """What the row of unknown ids is in a run, and the run's seed."""

    kind: str
    seed: int


def one_run(cfg: TrainConfig, row: Row) -> dict[str, Any]:
    """Trains the baseline once; NE of the first metric by each of `MEASURES`."""
    set_up_jax()
    import jax
    import jax.numpy as jnp

    from autorank.app import build
    from autorank.base.measurable import targets_of
    from autorank.base.metrics import normalized_entropy
    from autorank.fidelity.curve_label import curve_label
    from autorank.models.heads import METRICS
    from autorank.training.step import Schedule
    from autorank.training.trainer import window_ne

    data = build.dataset(cfg.data, lambda _: None)
    program = program_of(cfg, data, row.kind)
    rates, num_steps = build.hparams(cfg.training), data.schema.num_train // cfg.training.batch_size
    warmup = max(1, round(cfg.training.warmup_share * num_steps))
    schedule = Schedule(jnp.int32(num_steps), jnp.int32(warmup))
    state = jax.jit(program.run)(
        jax.random.key(row.seed),
        program.empty(),
        rates,
        schedule,
        training_rows(data, row.kind),
        jnp.int32(0),
        jnp.int32(num_steps),
    )
    if int(state.failed_step) >= 0:
        raise RuntimeError(
            f"{row.kind}, seed {row.seed}: the loss is not finite at step {state.failed_step}"
        )
    held_out = held_out_rows(data, cfg.training.batch_size)
    scored = {
        "held-out frozen": jax.jit(program.predict)(
            state.params, state.table.rows, held_out.sparse, held_out.dense
        ),
        "held-out progressive": jax.jit(program.follow)(state, rates, schedule, held_out),
    }
    metric = METRICS[cfg.model.head][0]
    targets, where = targets_of(np.asarray(held_out.labels, np.float64), metric)
    found = {"validation": float(curve_label(window_ne(state.curve)[:, 0], 1.0, tail=TAIL))}
    for name, p in scored.items():
        found[name] = float(normalized_entropy(np.asarray(p, np.float64)[where, 0], targets))
    run = {"data": data.schema.name, "metric": metric, "unknown": row.kind, "seed": row.seed}
    return run | found


def program_of(cfg: TrainConfig, data: "Dataset", kind: str) -> "Program":
    """The baseline's training program; "zero" leaves the rows of unknown ids untrained."""
    from autorank.models.dhen import compact
    from autorank.training.trainer import make_program

    schema = data.schema
    return make_program(
        compact(cfg.model, len(schema.fields), len(schema.dense)),
        head=cfg.model.head,
        width=cfg.model.width,
        num_ids=schema.num_ids,
        batch_size=cfg.training.batch_size,
        num_windows=cfg.training.num_windows,
        untrained=schema.unknown_ids if kind == "zero" else (),
    )


def training_rows(data: "Dataset", kind: str) -> "Data":
    """The training rows on the device; id dropout replaces the same ids for all seeds."""
    part = data.train()
    sparse = np.asarray(part.sparse)
    if kind in DROPOUT:
        dropped = np.random.default_rng(0).random(sparse.shape) < DROPOUT[kind]
        sparse = np.where(dropped, np.array(data.schema.unknown_ids, np.int32), sparse)
    return on_device(sparse, part.dense, part.labels)


def held_out_rows(data: "Dataset", batch_size: int) -> "Data":
    """The held-out rows in whole batches, so that both ways of scoring see the same rows."""
    part = data.test()
    last = len(part.sparse) // batch_size * batch_size
    return on_device(*(np.asarray(a)[:last] for a in (part.sparse, part.dense, part.labels)))


def on_device(sparse: np.ndarray, dense: np.ndarray, labels: np.ndarray) -> "Data":
    """Rows as a program takes them."""
    import jax.numpy as jnp

    from autorank.training.step import Data

    floats = (jnp.asarray(np.asarray(a), jnp.float32) for a in (dense, labels))
    return Data(jnp.asarray(sparse), *floats)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean NE of each kind of row, and its paired difference from "zero" in percent with a 95 % interval."""
    from autorank.base.metrics import ne_gain_percent, paired_test

    lines = [f"{'unknown ids':14}" + "".join(f"{name:>42}" for name in MEASURES)]
    of = {(row["unknown"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    for kind in KINDS:
        line = f"{kind:14}"
        for name in MEASURES:
            own, zero = ([of[k, s][name] for s in seeds] for k in (kind, "zero"))
            cell = f"{np.mean(own):.5f}"
            if kind != "zero" and len(seeds) > 1:
                test = paired_test(ne_gain_percent(own, zero))
                cell += f" {test.mean:+.3f} % [{test.low:+.3f}, {test.high:+.3f}]"
            line += f"{cell:>42}"
        lines.append(line)
    return "\n".join(lines)


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
def main(config: DictConfig) -> float:
    """Runs all kinds and seeds on as many cores as there are; returns the frozen NE of "zero"."""
    cfg = settings(config, TrainConfig)
    from autorank.app import build
    from autorank.app.provenance import provenance, shareable, write_rows

    data = build.dataset(cfg.data, print)
    runs = [Row(kind, seed) for seed in range(cfg.seeds) for kind in KINDS]
    cores = available_cores()
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        rows = []
        for row in pool.map(one_run, [cfg] * len(runs), runs):
            rows.append(row)
            print(f"{len(rows)} of {len(runs)}: {row}", flush=True)
    print(table(rows))
    results = Path(__file__).parent / "results" / f"unknown_ids_{cfg.data.source}.csv"
    write_rows(
        results, rows, {"config": shareable(cfg), "sha256": data.schema.sha256} | provenance()
    )
    return float(np.mean([r["held-out frozen"] for r in rows if r["unknown"] == "zero"]))


if __name__ == "__main__":
    main()
