"""What sharding a table over devices costs: a step of the sharded program against the plain one, and bytes exchanged.

    python -m experiments.speed.sharded                              # overhead on one device (CPU ms a step)
    python -m experiments.speed.sharded --devices 1,2,4,8 --core -1  # on a host with that many accelerators
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m experiments.speed.sharded --devices 2,8  # memory only

On a CPU: the sharded program on one device against the plain program, i.e. the cost of the sort that finds a device's
distinct ids and of the second deduplication. Rows a second on several devices need that many accelerators, which get
two larger shapes; fake CPU devices share their cores, their rows/s say nothing. Bytes exchanged are arithmetic
(`row_exchange.exchange_bytes`), not measured. The NE of every variant of a shape must be the same but for rounding.
"""

import os
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.programs import compiler_options
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.training.row_exchange import exchange_bytes
from autorank.training.sharded import device_mesh, make_sharded_program, place
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.trainer import lifetime_ne, make_program
from experiments.speed.criteo_shaped import F, N
from experiments.speed.figures import Figure
from experiments.speed.harness import Bench, Timer, run
from experiments.speed.reference_networks import network


class Shape(NamedTuple):
    """A batch, a table, and the network between them and the loss."""

    batch: int
    fields: int
    ids: int
    width: int
    network: str = "linear"  # one linear layer, or a `reference_networks.network`
    steps: int = 8


SHAPES = {
    "B=4096 V=2M": Shape(4096, 26, 2_000_000, 16),
    "B=1024 V=200k": Shape(1024, 10, 200_000, 16),
}
# On accelerators only: data of .9 GB, and tables of .6 and 4.1 GB with their accumulators.
LARGE = {
    "MLP 400x3, d=16, B=65536 V=8M": Shape(65536, F, 8_000_000, 16, "mlp", 129),
    "DCN-V2 rank 512, d=128, B=65536 V=8M": Shape(65536, F, 8_000_000, 128, "dcn", 129),
}
LINEAR = DhenConfig(num_layers=1, layer1=LayerConfig("linear", "linear"), width=16)


def measure(shape: str, variant: str) -> dict[str, Figure]:
    """Time of a step after one run that compiles and warms up; the log's ids follow a power law."""
    batch, fields, num_ids, width, kind, steps = (SHAPES | LARGE)[shape]
    rng = np.random.default_rng(0)
    n = steps * batch
    sparse = ((rng.pareto(1.05, (n, fields)) * 100).astype(np.int64) % num_ids).astype(np.int32)
    dense = rng.normal(size=(n, N)).astype(np.float32)
    labels = rng.integers(0, 2, (n, 1)).astype(np.float32)
    sizes = {
        "head": "ctr",
        "width": width,
        "num_ids": num_ids,
        "batch_size": batch,
        "num_windows": 4,
    }
    model = compact(LINEAR, fields, N) if kind == "linear" else network(kind)[0]
    figures, devices = {}, 1
    if variant == "plain":
        program = make_program(model, **sizes)
        data = Data(jnp.asarray(sparse), jnp.asarray(dense), jnp.asarray(labels))
    else:
        devices = int(variant.split()[1])
        mesh = device_mesh(devices)
        program = make_sharded_program(model, mesh=mesh, **sizes)
        data = place(sparse, dense, labels, mesh, batch)
        moved = exchange_bytes(
            batch_size=batch, num_fields=fields, width=width, num_ids=num_ids, devices=devices
        )
        figures["exchanged"] = Figure(moved / 1e6, "MB/step/device")
    hparams = Hparams(*(jnp.float32(v) for v in (1e-3, 0.05, 1e-8, 1e-8, 0.0, 1.0, 0.01)))
    schedule = Schedule(jnp.int32(steps), jnp.int32(2))
    run_ = jax.jit(program.run, donate_argnums=1, compiler_options=compiler_options())
    key, one = jax.random.key(0), jnp.int32(1)
    go = run_.lower(key, program.empty(), hparams, schedule, data, jnp.int32(0), one).compile()
    memory = go.memory_analysis()
    assert memory is not None
    # Of one device; drawing a new table is part of the program.
    table = 4 * num_ids * (width + 2) / devices
    figures["temporaries of a device"] = Figure(memory.temp_size_in_bytes / 1e6, "MB")
    figures["its part of the table"] = Figure(table / 1e6, "MB")
    state = go(key, program.empty(), hparams, schedule, data, jnp.int32(0), one)
    jax.block_until_ready(state)
    with Timer() as timer:
        state = go(key, state, hparams, schedule, data, one, jnp.int32(steps))
        jax.block_until_ready(state)
    assert int(state.step) == steps and int(state.failed_step) == -1
    figures["step cpu"] = Figure(1e3 * timer.cpu / (steps - 1), "ms")
    figures["step wall"] = Figure(1e3 * timer.wall / (steps - 1), "ms")
    figures["rows"] = Figure(1e-6 * batch * (steps - 1) / timer.wall, "M/s")
    figures["NE"] = Figure(float(lifetime_ne(state.curve)[0]), "")
    return figures


def device_counts() -> list[int]:
    """Takes ``--devices 1,2,4`` off the command line; the driver's processes do not need it."""
    if "--devices" not in sys.argv:
        return [1]
    at = sys.argv.index("--devices")
    counts = [int(text) for text in sys.argv[at + 1].split(",")]
    del sys.argv[at : at + 2]
    return counts


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    variants = ["plain", *(f"sharded {count}" for count in device_counts())]
    shapes = [*SHAPES, *(LARGE if jax.default_backend() == "gpu" else ())]
    run(Bench("sharded", [(shape, v) for shape in shapes for v in variants], measure))
