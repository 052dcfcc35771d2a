"""Milliseconds of one core that a training step takes: this project, its floors, naive optax, PyTorch and FuxiCTR.

    python -m experiments.speed.training --rounds 5

Rows shaped like Criteo's: 26 ids (power law, some 29,000 distinct of 106,496 in a batch of 4096) and 13 numbers.
"autorank" is `make_program(...).run` as the search calls it: row-wise Adagrad on the table, AdamW on the rest, many
steps a call. Peers in a second environment: `make peers`.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from autorank.data.logs.criteo_like_truth import CARDINALITIES, NUM_DENSE
from experiments.speed.figures import Figure
from experiments.speed.harness import Bench, Ratio, Timer, run

WIDTH = 16
ONE_THREAD = {"xla_cpu_multi_thread_eigen": False}
POWER = 8.0  # ids are size * u^POWER: a density that falls as id^-(1 - 1/POWER)


class Shape(NamedTuple):
    """A model, a batch and a table."""

    num_crosses: int
    hidden: tuple[int, ...]
    batch_size: int
    num_ids: int
    steps: int  # measured, after as many for warming up as WARM


WARM = 4
SHAPES = {
    "MLP 64x2": Shape(0, (64, 64), 4096, 2_020_000, 40),
    "MLP 400x3": Shape(0, (400,) * 3, 4096, 2_020_000, 16),
    "3 crosses + MLP 400x3": Shape(3, (400,) * 3, 4096, 2_020_000, 8),
    "B=1024, V=0.21M, MLP 64x2": Shape(0, (64, 64), 1024, 210_000, 120),
    "MLP 64x2, V=0.2M": Shape(0, (64, 64), 4096, 210_000, 40),
    "MLP 64x2, V=8M": Shape(0, (64, 64), 4096, 8_100_000, 40),
}


class Rows(NamedTuple):
    """A log of ``steps`` batches."""

    sparse: np.ndarray  # int32 [steps, b, 26], ids of each field counted from 0
    dense: np.ndarray  # float32 [steps, b, 13]
    labels: np.ndarray  # float32 [steps, b]
    sizes: np.ndarray  # rows of each field's table

    @property
    def offsets(self) -> np.ndarray:
        """First row of each field in one stacked table."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int32)


def rows_of(shape: Shape) -> Rows:
    """The same rows for every variant; the largest of Criteo's fields are cut to fit ``shape.num_ids``."""
    low, high = 1.0, float(max(CARDINALITIES))
    for _ in range(60):
        cap = (low * high) ** 0.5
        low, high = (
            (low, cap) if np.minimum(CARDINALITIES, cap).sum() > shape.num_ids else (cap, high)
        )
    sizes = np.maximum(1, np.minimum(CARDINALITIES, low).astype(np.int64))
    rng = np.random.default_rng(0)
    lead = (WARM + shape.steps, shape.batch_size)
    sparse = (rng.random((*lead, len(sizes))) ** POWER * sizes).astype(np.int32)
    dense = rng.random((*lead, NUM_DENSE), dtype=np.float32)
    labels = (rng.random(lead) < 0.25).astype(np.float32)
    return Rows(sparse, dense, labels, sizes)


def per_step(step: Callable[[int], Any], shape: Shape) -> dict[str, Figure]:
    """CPU milliseconds of a step that is one call each."""
    for i in range(WARM):
        step(i)
    with Timer() as timer:
        for i in range(WARM, WARM + shape.steps):
            step(i)
    return figures(timer.cpu / shape.steps, shape)


def figures(seconds: float, shape: Shape) -> dict[str, Figure]:
    """A step's time, and what it means in rows."""
    return {
        "cpu per step": Figure(1e3 * seconds, "ms"),
        "rows per cpu second": Figure(shape.batch_size / seconds, "rows/s"),
    }


# --- this project ---------------------------------------------------------------------------------


def dcn(num_fields: int, shape: Shape) -> Any:
    """Full-rank crosses over the flattened input, then an MLP (DCN-V2, stacked), as a `Model`."""
    import jax
    import jax.numpy as jnp

    from autorank.models.dhen import Model
    from autorank.models.maps import product

    size = num_fields * WIDTH + NUM_DENSE
    widths = (size, *shape.hidden, 1)
    shapes = [(size, size)] * shape.num_crosses + list(zip(widths, widths[1:], strict=False))

    def init(key: Any, scale: Any) -> Any:
        keys = jax.random.split(key, len(shapes))
        return [
            (scale * jax.random.normal(k, s) * s[0] ** -0.5, jnp.zeros(s[1]))
            for k, s in zip(keys, shapes, strict=True)
        ]

    def apply(params: Any, x: Any, dense: Any) -> Any:
        first = x = jnp.concatenate([x.reshape(x.shape[0], -1), dense], axis=1)
        for weight, bias in params[: shape.num_crosses]:
            x = first * (product(x, weight) + bias) + x
        for weight, bias in params[shape.num_crosses : -1]:
            x = jax.nn.relu(product(x, weight) + bias)
        weight, bias = params[-1]
        return product(x, weight) + bias

    return Model(init, apply)


def ours(
    shape: Shape, rows: Rows, quick_compile: bool = False, precision: str = "float32"
) -> dict[str, Figure]:
    """`Program.run` with the bound on distinct ids that its data gives.

    ``quick_compile`` takes the compiler's options of a search, which compile faster and make slower scatters.
    """
    import jax
    import jax.numpy as jnp

    from autorank.base.programs import compiler_options
    from autorank.training.step import Data, Hparams, Schedule
    from autorank.training.tables import max_distinct
    from autorank.training.trainer import make_program

    ids = (rows.sparse + rows.offsets).reshape(-1, len(rows.sizes))
    distinct = max_distinct(ids, shape.batch_size)
    program = make_program(
        dcn(len(rows.sizes), shape),
        head="ctr",
        width=WIDTH,
        num_ids=int(rows.sizes.sum()),
        batch_size=shape.batch_size,
        num_windows=4,
        max_distinct=distinct,
        precision=precision,
    )
    data = Data(
        jnp.asarray(ids),
        jnp.asarray(rows.dense.reshape(-1, NUM_DENSE)),
        jnp.asarray(rows.labels.reshape(-1, 1)),
    )
    hparams = Hparams(*(jnp.float32(v) for v in (1e-3, 0.02, 1e-8, 1e-8, 0.0, 1.0, 0.01)))
    total = WARM + shape.steps
    schedule = Schedule(jnp.int32(total), jnp.int32(1))
    options = compiler_options() if quick_compile else ONE_THREAD
    train = jax.jit(program.run, donate_argnums=1, compiler_options=options)
    arguments = (hparams, schedule, data)
    began = time.process_time()
    lowered = train.lower(
        jax.random.key(0), program.empty(), *arguments, jnp.int32(0), jnp.int32(WARM)
    )
    compiled = lowered.compile()
    compile_seconds = time.process_time() - began
    memory = compiled.memory_analysis()
    assert memory is not None
    state = compiled(jax.random.key(0), program.empty(), *arguments, jnp.int32(0), jnp.int32(WARM))
    jax.block_until_ready(state)
    with Timer() as timer:
        state = compiled(jax.random.key(0), state, *arguments, jnp.int32(WARM), jnp.int32(total))
        jax.block_until_ready(state)
    assert int(state.step) == total and int(state.failed_step) < 0
    return figures(timer.cpu / shape.steps, shape) | {
        "compile": Figure(compile_seconds, "s"),
        "temporaries": Figure(memory.temp_size_in_bytes / 1e6, "MB"),
        "distinct rows, at most": Figure(distinct, "rows"),
    }


def dense_part(shape: Shape, rows: Rows) -> dict[str, Figure]:
    """The network alone, with the gradient of the looked-up rows: the cost of a step if the table were free."""
    import jax
    import jax.numpy as jnp
    import optax

    from autorank.models.heads import task_losses

    model = dcn(len(rows.sizes), shape)
    params = model.init(jax.random.key(0), 1.0)
    optimizer = optax.flatten(optax.adamw(1e-3))
    x = 0.01 * jax.random.normal(jax.random.key(1), (shape.batch_size, len(rows.sizes), WIDTH))
    dense, labels = jnp.asarray(rows.dense), jnp.asarray(rows.labels)[:, :, None]

    def loss_fn(params: Any, x: Any, i: Any) -> Any:
        losses, _, _ = task_losses(model.apply(params, x, dense[i]), labels[i], "ctr")
        return losses.mean()

    def step(i: Any, carry: Any) -> Any:
        params, state, x = carry
        gradient, of_x = jax.grad(loss_fn, argnums=(0, 1))(params, x, i)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, x - 1e-3 * of_x

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=ONE_THREAD)
    def train(carry: Any, start: Any, stop: Any) -> Any:
        return jax.lax.fori_loop(start, stop, step, carry)

    carry = train((params, optimizer.init(params), x), 0, WARM)
    jax.block_until_ready(carry)
    with Timer() as timer:
        jax.block_until_ready(train(carry, WARM, WARM + shape.steps))
    return figures(timer.cpu / shape.steps, shape)


def optax_step(shape: Shape, rows: Rows) -> dict[str, Figure]:
    """What JAX users write: `optax.adam` over network and table, the state donated, one call a step."""
    import jax
    import jax.numpy as jnp
    import optax

    from autorank.models.heads import task_losses

    model = dcn(len(rows.sizes), shape)
    table = 0.01 * jax.random.normal(jax.random.key(1), (int(rows.sizes.sum()), WIDTH))
    params = (model.init(jax.random.key(0), 1.0), table)
    optimizer = optax.adam(1e-3)

    def loss_fn(params: Any, ids: Any, dense: Any, labels: Any) -> Any:
        logits = model.apply(params[0], params[1][ids], dense)
        return task_losses(logits, labels[:, None], "ctr")[0].mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, ids: Any, dense: Any, labels: Any) -> Any:
        gradient = jax.grad(loss_fn)(params, ids, dense, labels)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    ids = jnp.asarray(rows.sparse + rows.offsets)
    dense, labels = jnp.asarray(rows.dense), jnp.asarray(rows.labels)
    carry = (params, optimizer.init(params))

    def one(i: int) -> None:
        nonlocal carry
        carry = jax.block_until_ready(step(*carry, ids[i], dense[i], labels[i]))

    return per_step(one, shape)


# --- peers and floors -----------------------------------------------------------------------------


def peer(shape: Shape, rows: Rows, name: str) -> dict[str, Figure]:
    """PyTorch and FuxiCTR."""
    from experiments.speed.training_peers import Network, fuxictr_step, torch_step

    network = Network(shape.num_crosses, shape.hidden)
    if name == "FuxiCTR":
        step = fuxictr_step(
            network, rows.sparse, rows.dense, rows.labels, sizes=rows.sizes, width=WIDTH
        )
    else:
        step = torch_step(
            network,
            rows.sparse + rows.offsets,
            rows.dense,
            rows.labels,
            num_ids=int(rows.sizes.sum()),
            width=WIDTH,
            table_optimizer="adagrad" if "Adagrad" in name else "adam",
            half="bfloat16" in name,
        )
    return per_step(step, shape)


def dense_flops(shape: Shape) -> float:
    """FLOPs of the matrix products, forward and both gradients: 3 x 2 m n k each."""
    size = len(CARDINALITIES) * WIDTH + NUM_DENSE
    widths = (size, *shape.hidden, 1)
    weights = shape.num_crosses * size**2
    weights += sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    return 6.0 * shape.batch_size * weights


def floor(shape: Shape, rows: Rows) -> dict[str, Figure]:
    """What the core could do: the step's products at the best measured rate, the rows' bytes at that of a copy.

    A touched row is read, expanded to its lookups, its gradients summed, and the row and its accumulator written.
    """
    import jax
    import jax.numpy as jnp

    def rate(work: float, call: Callable[[], Any], repeats: int) -> float:
        call()
        best = 0.0
        for _ in range(repeats):
            with Timer() as timer:
                call()
            best = max(best, work / timer.cpu)
        return best

    n = 2048
    a = jnp.ones((n, n))
    product = jax.jit(lambda a: a @ a)
    flops = rate(2.0 * n**3, lambda: product(a).block_until_ready(), 8)
    source, target = np.ones(1 << 25, np.float32), np.ones(1 << 25, np.float32)
    bandwidth = rate(2.0 * source.nbytes, lambda: np.copyto(target, source), 8)
    touched = float(np.mean([len(np.unique(s + rows.offsets)) for s in rows.sparse[:4]]))
    lookups = shape.batch_size * len(rows.sizes)
    row = 4.0 * WIDTH
    table_bytes = touched * (2 * row + 2 * 4) + touched * row + 2 * lookups * row + 4 * lookups
    seconds = dense_flops(shape) / flops + table_bytes / bandwidth
    return figures(seconds, shape) | {
        "products": Figure(flops / 1e9, "GFLOP/s"),
        "memory": Figure(bandwidth / 1e9, "GB/s"),
        "dense part": Figure(1e3 * dense_flops(shape) / flops, "ms"),
        "table part": Figure(1e3 * table_bytes / bandwidth, "ms"),
    }


OURS, QUICK, MIXED, DENSE, OPTAX, FLOOR = (
    "autorank",
    "autorank, quick to compile",
    "autorank, bfloat16 products",
    "its dense part alone",
    "optax.adam over the table",
    "floor",
)
TORCH, HALF, ADAGRAD, FUXICTR = (
    "torch sparse",
    "torch sparse, bfloat16 products",
    "torch sparse, Adagrad on the table",
    "FuxiCTR",
)
PEERS = (TORCH, HALF, ADAGRAD, FUXICTR)
MEASURED = {
    "MLP 64x2": (OURS, QUICK, DENSE, FLOOR, OPTAX, TORCH, HALF, ADAGRAD, FUXICTR),
    "MLP 400x3": (OURS, MIXED, DENSE, FLOOR, OPTAX, TORCH, HALF, FUXICTR),
    "3 crosses + MLP 400x3": (OURS, MIXED, DENSE, FLOOR, TORCH, HALF, FUXICTR),
    "B=1024, V=0.21M, MLP 64x2": (OURS, DENSE, OPTAX, TORCH, FUXICTR),
}
SCALING = (OURS, OPTAX, TORCH)


def measure(shape_name: str, variant: str) -> Mapping[str, Figure]:
    """Measures one case."""
    shape = SHAPES[shape_name]
    rows = rows_of(shape)
    if variant in PEERS:
        return peer(shape, rows, variant)
    return {
        OURS: ours,
        QUICK: functools.partial(ours, quick_compile=True),
        MIXED: functools.partial(ours, precision="bfloat16"),
        DENSE: dense_part,
        OPTAX: optax_step,
        FLOOR: floor,
    }[variant](shape, rows)


STEP = "cpu per step"
GOALS: dict[str, dict[str, float | None]] = {
    "MLP 64x2": {TORCH: 2.4, HALF: None, ADAGRAD: None, FUXICTR: 12, OPTAX: 7, QUICK: None},
    "MLP 400x3": {TORCH: 1.9, HALF: 1.15, FUXICTR: 4, OPTAX: None},
    "3 crosses + MLP 400x3": {TORCH: 1.9, HALF: 1, FUXICTR: 2.5},
    "B=1024, V=0.21M, MLP 64x2": {TORCH: None, FUXICTR: None, OPTAX: None},
}
BENCH = Bench(
    name="training",
    cases=[
        *((shape, variant) for shape, variants in MEASURED.items() for variant in variants),
        *((shape, variant) for shape in SHAPES if shape not in MEASURED for variant in SCALING),
    ],
    measure=measure,
    ratios=[
        *(
            Ratio(shape, STEP, other, OURS, target)
            for shape, goals in GOALS.items()
            for other, target in goals.items()
        ),
        *(
            Ratio(shape, STEP, other, MIXED, GOALS[shape][other])
            for shape in ("MLP 400x3", "3 crosses + MLP 400x3")
            for other in (TORCH, HALF, FUXICTR)
        ),
        *(
            Ratio(shape, STEP, OURS, DENSE, 1.2 if shape == "MLP 400x3" else None, at_most=True)
            for shape in MEASURED
        ),
        *(
            Ratio(shape, STEP, OURS, FLOOR)
            for shape, variants in MEASURED.items()
            if FLOOR in variants
        ),
        Ratio("MLP 64x2, V=8M", STEP, OURS, OURS, 1.6, True, shape_under="MLP 64x2, V=0.2M"),
        *(
            Ratio("MLP 64x2, V=8M", STEP, v, v, shape_under="MLP 64x2, V=0.2M")
            for v in (OPTAX, TORCH)
        ),
    ],
    peers=PEERS,
)

if __name__ == "__main__":
    run(BENCH)
