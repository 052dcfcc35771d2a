"""A hundred different DHENs in one pass over Criteo-shaped rows, on one accelerator; compile time included.

    python experiments/bench_population.py                      # everything, about 12 minutes on an H100
    python experiments/bench_population.py --part population --rows 10000000
    python experiments/bench_population.py --small              # the same program at toy size, for any machine

Parts: ``population`` (the hundred models; the total has compiling in it), ``single`` (rows a second of one MLP 400x3
and of DCN-V2 with low-rank crosses of 512, and the share of the card's measured matrix rate), ``precision`` (NE with
bfloat16 activations against float32: the same models, seeds and rows), ``products`` (likewise for single models with
bfloat16 products, on a CPU too), ``kernels`` (tiny batched products), ``compact`` (some of the same models as programs
of their own, the hundred extrapolated from them), ``torch`` (the same with PyTorch and ``torch.compile``). Rows come
from `autorank.data.logs.criteo_like`, generated on the device. Nothing is interleaved: an accelerator is not shared.
"""

import argparse
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not in whoever reads the targets (bench_tables)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")

import _bench
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from autorank.base.programs import compiler_options, lower
from autorank.data.logs import criteo_like
from autorank.models import interactions, small_products
from autorank.models.blocks import Active
from autorank.models.cost import flops_per_example
from autorank.models.dhen import DhenConfig, LayerConfig, Model, compact
from autorank.population.layouts import layout_of, tuned
from autorank.training.population import make_population
from autorank.training.trainer import Data, Hparams, Schedule, make_program, window_ne

# The space of configs/space/dhen_small.yaml; Hydra, which reads that file, is not needed here.
SPACE: dict[str, tuple] = {
    "width": (8, 16, 32), "num_tokens": (8, 16), "rank": (8, 16), "heads": (1, 2, 4), "kernel": (1, 3, 5),
    "mlp_depth": (1, 2), "mlp_width": (32, 64, 128, 256), "norm": ("pre", "post", "none"),
    "ensemble": ("concat", "sum"), "head_depth": (1, 2), "head_width": (32, 64, 128),
}  # fmt: skip
MODULES = ("dot", "attention", "linear", "cross", "cross_low", "convolution", "fmb", "mask")
F, N = criteo_like.NUM_FIELDS, criteo_like.NUM_DENSE
WINDOWS = 100
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
ROWS: list[dict[str, str]] = []


def say(shape: str, variant: str, metric: str, unit: str, *values: float) -> None:
    """Prints a figure and keeps it as a row of the results."""
    spread = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    numbers = {k: f"{v:.5g}" for k, v in spread.items()} | {"repeats": str(len(values))}
    stamp = {"device": _bench.device_name(), "versions": _bench.versions()}
    stamp["git revision"] = _bench.revision()
    name = {"bench": "population", "shape": shape, "variant": variant, "metric": metric}
    ROWS.append(name | {"unit": unit} | numbers | stamp)
    print(f"{shape} | {variant} | {metric}: {spread['median']:.5g} {unit}", flush=True)


def sample(count: int, seed: int = 0) -> list[DhenConfig]:
    """Different random architectures of the space."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        depth = rng.choice((1, 2, 3, 4))
        layers = {
            f"layer{i}": LayerConfig(rng.choice(MODULES), rng.choice(("none", *MODULES)))
            for i in range(1, depth + 1)
        }
        sizes = {name: rng.choice(values) for name, values in SPACE.items()}
        config = DhenConfig(num_layers=depth, **layers, **sizes)
        found[config] = None
    return list(found)


def hparams(count: int | None) -> Hparams:
    """The same rates for all; ``[count]`` each, or scalars."""
    one = Hparams(*map(jnp.float32, (1e-3, 0.05, 1e-8, 1e-8, 0.0, 1.0, 0.01)))
    return one if count is None else jax.tree.map(lambda v: jnp.full(count, v), one)


def log(num_rows: int, max_vocabulary: int) -> tuple[Data, int]:
    """Rows on the device, float16 dense, int8 labels; and the size of the table."""
    rows = criteo_like.device_arrays(
        0, num_rows, max_vocabulary=max_vocabulary, dense_dtype=jnp.float16
    )
    jax.block_until_ready(rows.sparse)
    return Data(rows.sparse, rows.dense, rows.labels), sum(criteo_like.sizes(max_vocabulary))


def schedule(data: Data, batch_size: int) -> Schedule:
    """One pass."""
    steps = data.sparse.shape[0] // batch_size
    return Schedule(jnp.int32(steps), jnp.int32(max(1, steps // 10)))


def groups_of(configs: list[DhenConfig], size: int) -> list[list[DhenConfig]]:
    """One width a group, at most ``size`` models, alike in depth and tokens; what compiles soonest first.

    The shallowest models of each width are a small group of their own: the device has something to train while the
    large ones compile.
    """
    found = []
    for width in sorted({c.width for c in configs}):
        own = [c for c in configs if c.width == width]
        own.sort(key=lambda c: (-c.num_layers, c.num_tokens, c.ensemble))
        ends = [len(own)]
        if len(own) > size:
            ends.insert(0, len(own) - size // 4)
        parts = -(-ends[0] // size)
        ends = [ends[0] * i // parts for i in range(1, parts)] + ends
        found += [own[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return sorted(found, key=lambda g: sum(c.num_layers for c in g))


def train_population(
    configs: list[DhenConfig], seeds: list[int], data: Data, num_ids: int, batch_size: int, size: int, dtype: Any,
    options: dict | None, threads: int = 12,
) -> tuple[np.ndarray, dict[str, float]]:  # fmt: skip
    """Trains all models, groups compiled ahead by threads; NE of the last quarter of windows, and seconds."""
    started = time.perf_counter()
    groups = groups_of(configs, size)
    place = {id(c): i for i, c in enumerate(configs)}
    layouts = [tuned(layout_of(g, F, N), jax.default_backend()) for g in groups]
    last = schedule(data, batch_size)

    def build(index: int) -> tuple[Any, Any, float]:
        begun = time.perf_counter()
        group = groups[index]
        program = make_population(
            layouts[index], F, N, num_ids=num_ids, batch_size=batch_size, num_windows=WINDOWS, dtype=dtype
        )  # fmt: skip
        shapes = program.shapes(group)
        arguments = (*shapes, hparams(len(group)), last, data, jnp.int32(0))
        arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
        run = lower(program.run, *arguments, donate_argnums=0)
        compiled = run.compile(compiler_options=options)
        program.prepare(group)
        return program, compiled, time.perf_counter() - begun

    levels = np.zeros(len(configs))
    training = compiling = waited = drawing = 0.0
    with ThreadPoolExecutor(threads) as pool:
        jobs: list[Future] = [pool.submit(build, i) for i in range(len(groups))]
        left = set(range(len(groups)))
        while left:
            begun = time.perf_counter()
            while not (ready := [i for i in left if jobs[i].done()]):
                time.sleep(0.02)
            index = ready[0]
            left.remove(index)
            group = groups[index]
            program, run, seconds = jobs[index].result()
            jobs[index] = Future()  # lets go of the program when it is done with
            compiling, waited = compiling + seconds, waited + time.perf_counter() - begun
            begun = time.perf_counter()
            own = [seeds[place[id(c)]] for c in group]
            state, route = program.start(group, own, hparams(len(group)))
            jax.block_until_ready(state.rows)
            drawn = time.perf_counter() - begun
            drawing += drawn
            state = run(state, route, hparams(len(group)), last, data, last.num_steps)
            curve = jax.device_get(state.curve)
            failed = int((np.asarray(state.failed_step) >= 0).sum())
            seconds = time.perf_counter() - begun
            training += seconds
            ne = window_ne(curve)[-WINDOWS // 4 :, :, 0].mean(axis=0)
            for config, level in zip(group, ne, strict=True):
                levels[place[id(config)]] = level
            memory = run.memory_analysis()
            rate = len(group) * int(last.num_steps) * batch_size / (seconds - drawn) / 1e6
            print(
                f"  group of {len(group)}: width {group[0].width}, {layouts[index].instances} modules, compiled in "
                f"{compiling:.0f} s summed, drawn in {drawn:.1f} s, {seconds:.1f} s, {rate:.2f} M model-rows/s, "
                f"temporaries {memory.temp_size_in_bytes / 2**30:.1f} GiB, {failed} failed, "
                f"{time.perf_counter() - started:.0f} s in all, {len(left)} groups left",
                flush=True,
            )
            del state, run, program
    total = time.perf_counter() - started
    seconds = {"total": total, "training": training, "compiling": compiling, "waiting": waited}
    return levels, seconds | {"drawing": drawing}


def population_part(sizes: dict[str, int]) -> None:
    """The hundred models, compile included."""
    data, num_ids = log(sizes["rows"], sizes["ids"])
    configs = sample(sizes["models"])
    size = f"{sizes['rows'] / 1e6:g}M rows, V={num_ids / 1e6:.2g}M, B={sizes['batch']}"
    shape = f"{len(configs)} DHENs (dhen_small), {size}"
    levels, seconds = train_population(
        configs, list(range(len(configs))), data, num_ids, sizes["batch"], sizes["group"], jnp.bfloat16, OPTIONS_HERE
    )  # fmt: skip
    rows = len(configs) * (sizes["rows"] // sizes["batch"]) * sizes["batch"]
    say(shape, "population bf16", "initial tables and weights", "s", seconds["drawing"])
    say(shape, "population bf16", "total with compiling", "s", seconds["total"])
    say(shape, "population bf16", "waiting for compilers", "s", seconds["waiting"])
    say(shape, "population bf16", "compiling, summed over threads", "s", seconds["compiling"])
    say(
        shape,
        "population bf16",
        "million model-rows/s while training",
        "M/s",
        rows / seconds["training"] / 1e6,
    )
    flops = 3 * np.mean([flops_per_example(c, F, N) for c in configs]) * rows / seconds["training"]
    say(shape, "population bf16", "useful TFLOP/s while training", "TFLOP/s", float(flops) / 1e12)
    full = seconds["waiting"] + seconds["training"] * 45.8e6 / sizes["rows"]
    say(shape, "population bf16", "total at 45.8M rows, extrapolated", "s", full)
    say(shape, "population bf16", "NE, last quarter: best, median, worst", "NE", *sorted(levels))


def precision_models() -> list[DhenConfig]:
    """The models whose NE is compared between precisions."""
    fixed: dict[str, Any] = {"width": 16, "num_tokens": 8, "mlp_width": 64, "head_width": 64}
    return [
        DhenConfig(num_layers=1, layer1=LayerConfig("fmb", "linear"), norm="post", **fixed),
        DhenConfig(num_layers=1, layer1=LayerConfig("attention", "cross"), norm="none", **fixed),
    ]


def say_change(
    models: list[DhenConfig], rows: int, variant: str, full: np.ndarray, half: np.ndarray
) -> None:
    """NE ``half`` against ``full``, both ``[models, seeds]``, paired by seed."""
    gains, repeats = 100 * (half / full - 1), full.shape[1]
    for config, gain, level in zip(models, gains, full, strict=True):
        shape = f"DHEN {'+'.join(config.layer1.modules)}, {rows / 1e6:g}M rows, seeds {repeats}"
        say(shape, variant, "NE change, by seed", "%", *gain)
        say(shape, variant, "NE change, mean", "%", float(gain.mean()))
        spread = gain.std(ddof=1) / repeats**0.5 if repeats > 1 else float("nan")
        say(
            shape,
            variant,
            "half of its 95 % interval",
            "%",
            float(scipy.stats.t.ppf(0.975, repeats - 1) * spread),
        )
        say(
            shape,
            f"{variant}, float32",
            "seed noise of NE",
            "%",
            100 * level.std(ddof=1) / level.mean(),
        )


def precision_part(sizes: dict[str, int]) -> None:
    """NE of bfloat16 activations in a population against float32, paired by model and seed."""
    data, num_ids = log(sizes["precision_rows"], sizes["ids"])
    models, repeats = precision_models(), sizes["seeds"]
    configs = [DhenConfig(**vars(c)) for c in models for _ in range(repeats)]
    seeds = list(range(repeats)) * len(models)
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        levels, _ = train_population(
            configs, seeds, data, num_ids, sizes["batch"], len(configs), dtype, OPTIONS_HERE
        )
        found.append(levels.reshape(len(models), repeats))
    say_change(models, sizes["precision_rows"], "bf16 / f32", *found)


def products_part(sizes: dict[str, int]) -> None:
    """NE of models of their own with bfloat16 products against float32, paired by seed."""
    data, num_ids = log(sizes["products_rows"], sizes["ids"] // 10)
    models, batch_size = precision_models(), min(sizes["batch"], 1024)
    found = np.zeros((2, len(models), sizes["seeds"]))
    last = schedule(data, batch_size)
    for place, precision in enumerate((jnp.float32, jnp.bfloat16)):
        for row, config in enumerate(models):
            program = make_program(
                compact(config, F, N), head="ctr", width=config.width, num_ids=num_ids,
                batch_size=batch_size, num_windows=WINDOWS, precision=precision,
            )  # fmt: skip
            run = jax.jit(program.run, donate_argnums=1, compiler_options=compiler_options())
            for seed in range(sizes["seeds"]):
                state = run(
                    jax.random.key(seed), program.empty(), hparams(None), last, data, jnp.int32(0), last.num_steps,
                )  # fmt: skip
                ne = window_ne(jax.device_get(state.curve))[-WINDOWS // 4 :, 0]
                found[place, row, seed] = ne.mean()
    say_change(models, sizes["products_rows"], "bf16 products / f32", *found)


def matrix_rate(seconds: float = 1.0) -> float:
    """Measured bfloat16 matrix rate of the card, FLOP/s, on random numbers."""
    n = 8192 if jax.default_backend() == "gpu" else 512
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in (0, 1))
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(a, b))
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        jax.block_until_ready([multiply(a, b) for _ in range(10)])
        count += 10
    return 2 * n**3 * count / (time.perf_counter() - begun)


def network(kind: str) -> tuple[Model, float]:
    """MLP 400x3, or DCN-V2 (three crosses of rank 512 and an MLP 1024-1024-512-256-1), and its FLOPs an example."""
    inputs = 16 * F + N if kind == "mlp" else 128 * F + 128
    widths = (400, 400, 400, 1) if kind == "mlp" else (1024, 1024, 512, 256, 1)
    crosses = 0 if kind == "mlp" else 3

    def init(key: Any, scale: Any) -> Any:
        keys = iter(jax.random.split(key, 3 * crosses + len(widths) + 1))
        draw = lambda i, o: scale * jax.random.normal(next(keys), (i, o)) * i**-0.5  # noqa: E731
        params: dict[str, Any] = {"mlp": [], "cross": []}
        if kind != "mlp":
            params["bottom"] = draw(N, 128)
        for _ in range(crosses):
            params["cross"].append((draw(inputs, 512), draw(512, inputs), jnp.zeros(inputs)))
        for i, o in zip((inputs, *widths), widths, strict=False):
            params["mlp"].append((draw(i, o), jnp.zeros(o)))
        return params

    def apply(params: Any, x: Any, dense: Any) -> Any:
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        x, dense = x.astype(jnp.bfloat16), dense.astype(jnp.bfloat16)
        dense = dense if kind == "mlp" else jax.nn.relu(dense @ params["bottom"])
        x0 = x = jnp.concatenate([x.reshape(x.shape[0], -1), dense], axis=1)
        for down, up, offset in params["cross"]:
            x = x0 * ((x @ down) @ up + offset[None]) + x
        for i, (weight, offset) in enumerate(params["mlp"]):
            x = x @ weight + offset[None]
            x = jax.nn.relu(x) if i + 1 < len(widths) else x
        return x.astype(jnp.float32)

    layers = zip((inputs, *widths), widths, strict=False)
    flops = sum(2 * i * o for i, o in layers) + crosses * 2 * 2 * inputs * 512
    return Model(init, apply), flops + (0 if kind == "mlp" else 2 * N * 128)


def single_part(sizes: dict[str, int]) -> None:
    """Rows a second of one model, table and optimiser included."""
    ceiling = matrix_rate()
    say("bf16 matrix product 8192", "jax", "rate", "TFLOP/s", ceiling / 1e12)
    data, num_ids = log(sizes["single_rows"], sizes["ids"])
    cases = [("mlp", 16, b) for b in (4096, 16384, 65536)] + [("dcn", 128, 65536)]
    for kind, width, batch_size in cases[: 1 if sizes["models"] < 100 else None]:
        batch_size = min(batch_size, sizes["single_rows"] // 4)
        model, flops = network(kind)
        program = make_program(
            model, head="ctr", width=width, num_ids=num_ids, batch_size=batch_size, num_windows=2
        )
        last = schedule(data, batch_size)
        arguments = (jax.random.key(0), program.empty(), hparams(None), last, data)
        run = jax.jit(program.run, donate_argnums=1)
        begun = time.perf_counter()
        compiled = run.lower(*arguments, jnp.int32(0), jnp.int32(0)).compile()
        compiling = time.perf_counter() - begun
        state = compiled(*arguments, jnp.int32(0), jnp.int32(1))
        jax.block_until_ready(state.step)
        rates, steps = [], int(last.num_steps)
        step = 1
        for part in range(1, 6):
            stop = 1 + (steps - 1) * part // 5
            begun = time.perf_counter()
            state = compiled(arguments[0], state, *arguments[2:], jnp.int32(step), jnp.int32(stop))
            jax.block_until_ready(state.step)
            rates.append((stop - step) * batch_size / (time.perf_counter() - begun))
            step = stop
        name = "MLP 400x3, d=16" if kind == "mlp" else "DCN-V2 rank 512, d=128"
        shape = f"{name}, V={num_ids / 1e6:.2g}M, B={batch_size}"
        say(shape, "one model bf16", "million rows/s", "M/s", *(r / 1e6 for r in rates))
        share = [100 * 3 * flops * r / ceiling for r in rates]
        say(shape, "one model bf16", "share of the measured matrix rate", "%", *share)
        say(shape, "one model bf16", "compile", "s", compiling)
        del state, arguments, compiled


def sampled(configs: list[DhenConfig], count: int) -> list[DhenConfig]:
    """Models spread evenly over the hundred by FLOPs."""
    by_cost = sorted(configs, key=lambda c: flops_per_example(c, F, N))
    return [by_cost[int((i + 0.5) * len(by_cost) / count)] for i in range(count)]


def extrapolate(
    name: str, shape: str, models: int, rows: int, runs: list[tuple[float, float]]
) -> None:
    """Seconds for all models one after another, from (compile seconds, rows a second) of some."""
    say(shape, name, "compile, one model", "s", *(c for c, _ in runs))
    say(shape, name, "million rows/s, one model", "M/s", *(r / 1e6 for _, r in runs))
    seconds = models * statistics.fmean(c + rows / r for c, r in runs)
    say(shape, name, f"{models} models one after another, extrapolated", "s", seconds)
    seconds = models * statistics.fmean(rows / r for _, r in runs)
    say(shape, name, f"{models} models, compiling free, extrapolated", "s", seconds)


def compact_part(sizes: dict[str, int]) -> None:
    """Some of the hundred as programs of their own, float32 as a trial of a search trains them."""
    data, num_ids = log(sizes["sample_rows"], sizes["ids"])
    configs, batch_size, runs = sample(sizes["models"]), sizes["batch"], []
    for config in sampled(configs, sizes["sample"]):
        program = make_program(
            compact(config, F, N), head="ctr", width=config.width, num_ids=num_ids, batch_size=batch_size,
            num_windows=WINDOWS,
        )  # fmt: skip
        last = schedule(data, batch_size)
        arguments = (jax.random.key(0), program.empty(), hparams(None), last, data)
        begun = time.perf_counter()
        run = jax.jit(program.run, donate_argnums=1).lower(*arguments, jnp.int32(0), jnp.int32(0))
        compiled = run.compile()
        compiling = time.perf_counter() - begun
        state = compiled(*arguments, jnp.int32(0), jnp.int32(4))
        jax.block_until_ready(state.step)
        begun = time.perf_counter()
        state = compiled(arguments[0], state, *arguments[2:], jnp.int32(4), last.num_steps)
        jax.block_until_ready(state.step)
        done = (int(last.num_steps) - 4) * batch_size
        runs.append((compiling, done / (time.perf_counter() - begun)))
        print(f"  compact width {config.width}, {config.num_layers} layers: {runs[-1]}", flush=True)
    shape = f"{sizes['sample']} of the {len(configs)} DHENs, {sizes['rows'] / 1e6:g}M rows"
    extrapolate("compact programs f32", shape, len(configs), sizes["rows"], runs)


def torch_part(sizes: dict[str, int]) -> None:
    """Some of the hundred in PyTorch."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from _torch_dhen import measure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"no PyTorch variants: {error}")
        return
    data, _ = log(sizes["sample_rows"], sizes["ids"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [torch.from_numpy(np.asarray(a)).to(device) for a in data]
    configs = sample(sizes["models"])
    shape = f"{sizes['sample']} of the {len(configs)} DHENs, {sizes['rows'] / 1e6:g}M rows"
    steps = min(200, sizes["sample_rows"] // sizes["batch"] - 12)
    runs = []
    for config in sampled(configs, sizes["sample"]):
        found = measure(
            config, *tensors, batch_size=sizes["batch"], steps=steps, warmup=10, device=device,
            dtype="bfloat16", compile=True,
        )  # fmt: skip
        runs.append((found["compile_seconds"], found["rows_per_second"]))
        print(f"  torch width {config.width}, {config.num_layers} layers: {runs[-1]}", flush=True)
    extrapolate("torch.compile bf16", shape, len(configs), sizes["rows"], runs)


def kernels_part(sizes: dict[str, int]) -> None:
    """The tiny batched products, forward and backward: ours against the compiler's, results compared."""
    models, batch = (10, sizes["batch"]) if jax.default_backend() == "gpu" else (2, 8)
    form = "gpu" if jax.default_backend() == "gpu" else "interpret"
    width, keys = 16, jax.random.split(jax.random.key(0), 4)

    def library(qkv: Any, positions: Any, heads: int) -> Any:
        parts = qkv.reshape(*qkv.shape[:2], 3, width)
        active = Active(positions, None, positions, None, None)
        return interactions.attention_of(parts, heads, active)

    def gram(x: Any) -> Any:
        return jnp.einsum("bmd,bnd->bmn", x, x)

    cases: list[tuple[str, int, Callable, Callable]] = []
    for m in (27, 43):
        cases.append(
            (
                f"Gram {m} x {m} x {width}",
                width,
                gram,
                lambda x: small_products.products(x, x, form),
            )
        )
        for heads in (1, 4):
            ours = partial(small_products.attend, heads=heads, kernels=form)
            cases.append(
                (f"attention of {m}, width {width}, {heads} heads", 3 * width,
                 lambda x, heads=heads: library(x, jnp.int32(20), heads),
                 lambda x, ours=ours: ours(x, jnp.int32(20)))
            )  # fmt: skip
    for name, columns, theirs, own in cases:
        m = int(name.split()[1 if name[0] == "G" else 2].strip(","))
        x = jax.random.normal(keys[0], (models, batch, m, columns), jnp.bfloat16)
        size = jax.eval_shape(jax.vmap(own), x).shape
        slope = jax.random.normal(keys[1], size, jnp.bfloat16)

        def both(x: Any, slope: Any, f: Callable) -> Any:
            value, back = jax.vjp(jax.vmap(f), x)
            return value, back(slope)[0]

        found = {}
        for variant, f in (("compiler", theirs), ("one warp a row", own)):
            run = jax.jit(partial(both, f=f)).lower(x, slope).compile(compiler_options=OPTIONS_HERE)
            found[variant] = jax.block_until_ready(run(x, slope))
            times = []
            for _ in range(5):
                begun = time.perf_counter()
                jax.block_until_ready([run(x, slope) for _ in range(10)])
                times.append((time.perf_counter() - begun) / 10 * 1e6)
            say(f"{name}, {models} models x {batch}", variant, "forward and backward", "us", *times)
        floor = (
            2 * (3 * x.size + 2 * slope.size) / 2.4e12 * 1e6
        )  # bytes: x twice, its slope, value, slope
        say(
            f"{name}, {models} models x {batch}",
            "bytes at 2.4 TB/s",
            "forward and backward",
            "us",
            floor,
        )
        away = [
            float(
                jnp.max(jnp.abs(a.astype(jnp.float32) - b))
                / jnp.max(jnp.abs(b.astype(jnp.float32)))
            )
            for a, b in zip(*found.values(), strict=True)
        ]
        say(
            f"{name}, {models} models x {batch}",
            "one warp a row",
            "largest difference, relative",
            "1",
            *away,
        )


PARTS: dict[str, Callable[[dict[str, int]], None]] = {
    "population": population_part,
    "single": single_part,
    "kernels": kernels_part,
    "products": products_part,
    "precision": precision_part,
    "compact": compact_part,
    "torch": torch_part,
}
# Targets: (shape, variant, metric) -> (bound, whether it is an upper one).
HUNDRED = "100 DHENs (dhen_small), 10M rows, V=2M, B=4096"
DCN = "DCN-V2 rank 512, d=128, V=2M, B=65536"
BOUNDS: dict[tuple[str, str, str], tuple[float, bool]] = {
    (HUNDRED, "population bf16", "total with compiling"): (300.0, True),
    ("MLP 400x3, d=16, V=2M, B=4096", "one model bf16", "million rows/s"): (10.0, False),
    (DCN, "one model bf16", "share of the measured matrix rate"): (40.0, False),
}
OPTIONS_HERE: dict | None = None
FULL = {
    "models": 100, "rows": 10_000_000, "ids": 2_000_000, "batch": 4096, "group": 17, "precision_rows": 2_000_000,
    "products_rows": 400_000,
    "seeds": 5, "single_rows": 4_000_000, "sample": 4, "sample_rows": 1_500_000,
}  # fmt: skip
SMALL = {
    "models": 4, "rows": 4_000, "ids": 2_000, "batch": 64, "group": 2, "precision_rows": 2_000,
    "products_rows": 4_000, "seeds": 2, "single_rows": 4_000, "sample": 1, "sample_rows": 4_000,
}  # fmt: skip


def main() -> None:
    """Runs the parts and adds their rows to the results."""
    global OPTIONS_HERE
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, default=[])
    parser.add_argument("--small", action="store_true")
    parser.add_argument(
        "--autotune",
        action="store_true",
        help="XLA's own choice of matrix kernels: slower to compile",
    )
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=int, default=None, help=f"default {value}")
    parser.add_argument("--out", type=Path, default=_bench.RESULTS / "bench_population.csv")
    options = parser.parse_args()
    sizes = SMALL if options.small else FULL
    sizes |= {n: v for n in FULL if (v := getattr(options, n)) is not None}
    if jax.default_backend() == "gpu" and not options.autotune:
        OPTIONS_HERE = OPTIONS
    print(f"{jax.devices()}, {threading.active_count()} threads, {sizes}", flush=True)
    for part in options.part or PARTS:
        begun = time.perf_counter()
        try:
            PARTS[part](sizes)
        except Exception as error:  # the other parts' figures must not be lost with this one
            print(f"part {part} failed: {type(error).__name__}: {str(error)[:2000]}", flush=True)
        print(f"part {part}: {time.perf_counter() - begun:.0f} s", flush=True)
        if not options.small:
            _bench.write(options.out, ROWS)


if __name__ == "__main__":
    main()
