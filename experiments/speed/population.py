"""A hundred different DHENs in one pass over Criteo-shaped rows, on one accelerator; compile time included.

    python -m experiments.speed.population                      # everything, about 12 minutes on an H100
    python -m experiments.speed.population --part population --rows 10000000
    python -m experiments.speed.population --small              # the same program at toy size, for any machine

Parts: ``population`` (the hundred models; the total includes compiling), ``single`` (rows a second of one MLP 400x3
and of DCN-V2 with low-rank crosses of 512, and the share of the card's measured matrix rate), ``precision`` (NE with
bfloat16 activations against float32: the same models, seeds and rows), ``products`` (likewise for single models with
bfloat16 products, on a CPU too), ``kernels`` (tiny batched products), ``compact`` (some of the same models as programs
of their own, the hundred extrapolated from them), ``torch`` (the same with PyTorch and ``torch.compile``). Rows come
from `autorank.data.logs.criteo_like`, generated on the device. Variants do not take turns: nothing else uses the
accelerator.
"""

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # not in a program that only reads the targets
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from autorank.base.programs import compiler_options
from autorank.models.cost import flops_per_example
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.training.trainer import Program, make_program, window_ne
from experiments.machine import RESULTS
from experiments.speed.batched_products import measure_products
from experiments.speed.criteo_shaped import WINDOWS, F, N, hparams, log, sample, schedule
from experiments.speed.figures import Findings, Target, write
from experiments.speed.population_run import PopulationRun
from experiments.speed.reference_networks import NAMES, matrix_rate, network

# XLA's search for the fastest matrix kernel takes longer than it saves.
QUICK_TO_COMPILE: dict[str, Any] = {
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
}


class Setup(NamedTuple):
    """What each part needs."""

    sizes: Mapping[str, int]
    options: dict[str, Any] | None  # of the compiler
    found: Findings


def population_part(setup: Setup) -> None:
    """The hundred models, compile included."""
    sizes = setup.sizes
    data, num_ids = log(sizes["rows"], sizes["ids"])
    configs = sample(sizes["models"])
    size = f"{sizes['rows'] / 1e6:g}M rows, V={num_ids / 1e6:.2g}M, B={sizes['batch']}"
    shape = f"{len(configs)} DHENs (dhen_small), {size}"
    run = PopulationRun(data, num_ids, sizes["batch"], jnp.bfloat16)
    levels, seconds = run.train(configs, range(len(configs)), sizes["lanes"])
    rows = len(configs) * (sizes["rows"] // sizes["batch"]) * sizes["batch"]
    rate = rows / seconds["training"]
    flops = 3 * float(np.mean([flops_per_example(c, F, N) for c in configs])) * rate
    full = seconds["waiting"] + seconds["training"] * 45.8e6 / sizes["rows"]

    def say(metric: str, unit: str, *values: float) -> None:
        setup.found.say(shape, "population bf16", metric, unit, *values)

    say("total with compiling", "s", seconds["total"])
    say("waiting for compilers", "s", seconds["waiting"])
    say("compiling, summed over threads", "s", seconds["compiling"])
    say("million model-rows/s while training", "M/s", rate / 1e6)
    say("useful TFLOP/s while training", "TFLOP/s", flops / 1e12)
    say("total at 45.8M rows, extrapolated", "s", full)
    say("NE, last quarter: best, median, worst", "NE", *sorted(levels))


def precision_models() -> list[DhenConfig]:
    """The models whose NE is compared between precisions."""
    fixed: dict[str, Any] = {"width": 16, "num_tokens": 8, "mlp_width": 64, "head_width": 64}
    return [
        DhenConfig(num_layers=1, layer1=LayerConfig("fmb", "linear"), norm="post", **fixed),
        DhenConfig(num_layers=1, layer1=LayerConfig("attention", "cross"), norm="none", **fixed),
    ]


def say_change(
    found: Findings,
    models: list[DhenConfig],
    rows: int,
    variant: str,
    full: np.ndarray,
    half: np.ndarray,
) -> None:
    """NE ``half`` against ``full``, both ``[models, seeds]``, paired by seed."""
    gains, repeats = 100 * (half / full - 1), full.shape[1]
    for config, gain, level in zip(models, gains, full, strict=True):
        shape = f"DHEN {'+'.join(config.layer1.modules)}, {rows / 1e6:g}M rows, seeds {repeats}"
        spread = gain.std(ddof=1) / repeats**0.5 if repeats > 1 else float("nan")
        interval = float(scipy.stats.t.ppf(0.975, repeats - 1) * spread)
        noise = 100 * level.std(ddof=1) / level.mean()
        found.say(shape, variant, "NE change, by seed", "%", *gain)
        found.say(shape, variant, "NE change, mean", "%", float(gain.mean()))
        found.say(shape, variant, "half of its 95 % interval", "%", interval)
        found.say(shape, f"{variant}, float32", "seed noise of NE", "%", noise)


def precision_part(setup: Setup) -> None:
    """NE of bfloat16 activations in a population against float32, paired by model and seed."""
    sizes = setup.sizes
    data, num_ids = log(sizes["precision_rows"], sizes["ids"])
    models, repeats = precision_models(), sizes["seeds"]
    configs = [model for model in models for _ in range(repeats)]
    seeds = list(range(repeats)) * len(models)
    levels = []
    for dtype in (jnp.float32, jnp.bfloat16):
        run = PopulationRun(data, num_ids, sizes["batch"], dtype)
        ne, _ = run.train(configs, seeds, len(configs))
        levels.append(ne.reshape(len(models), repeats))
    say_change(setup.found, models, sizes["precision_rows"], "bf16 / f32", *levels)


def program_of(
    config: DhenConfig, num_ids: int, batch_size: int, precision: Any = jnp.float32
) -> Program:
    """The training program of one compact model with a click head."""
    return make_program(
        compact(config, F, N),
        head="ctr",
        width=config.width,
        num_ids=num_ids,
        batch_size=batch_size,
        num_windows=WINDOWS,
        precision=precision,
    )


def products_part(setup: Setup) -> None:
    """NE of models of their own with bfloat16 products against float32, paired by seed."""
    sizes = setup.sizes
    data, num_ids = log(sizes["products_rows"], sizes["ids"] // 10)
    models, batch_size = precision_models(), min(sizes["batch"], 1024)
    levels = np.zeros((2, len(models), sizes["seeds"]))
    last = schedule(data, batch_size)
    for place, precision in enumerate((jnp.float32, jnp.bfloat16)):
        for row, config in enumerate(models):
            program = program_of(config, num_ids, batch_size, precision)
            run = jax.jit(program.run, donate_argnums=1, compiler_options=compiler_options())
            for seed in range(sizes["seeds"]):
                state = run(
                    jax.random.key(seed),
                    program.empty(),
                    hparams(None),
                    last,
                    data,
                    jnp.int32(0),
                    last.num_steps,
                )
                ne = window_ne(jax.device_get(state.curve))[-WINDOWS // 4 :, 0]
                levels[place, row, seed] = ne.mean()
    say_change(setup.found, models, sizes["products_rows"], "bf16 products / f32", *levels)


def single_part(setup: Setup) -> None:
    """Rows a second of one model, table and optimiser included."""
    sizes, say = setup.sizes, setup.found.say
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
        shape = f"{NAMES[kind]}, V={num_ids / 1e6:.2g}M, B={batch_size}"
        say(shape, "one model bf16", "million rows/s", "M/s", *(r / 1e6 for r in rates))
        share = [100 * 3 * flops * r / ceiling for r in rates]
        say(shape, "one model bf16", "share of the measured matrix rate", "%", *share)
        say(shape, "one model bf16", "compile", "s", compiling)
        del state, arguments, compiled


def sampled(configs: list[DhenConfig], count: int) -> list[DhenConfig]:
    """Models spread evenly over the hundred by FLOPs."""
    by_cost = sorted(configs, key=lambda c: flops_per_example(c, F, N))
    return [by_cost[int((i + 0.5) * len(by_cost) / count)] for i in range(count)]


def extrapolate(setup: Setup, variant: str, models: int, runs: list[tuple[float, float]]) -> None:
    """Seconds for all models one after another, from (compile seconds, rows a second) of some."""
    rows = setup.sizes["rows"]
    shape = f"{setup.sizes['sample']} of the {models} DHENs, {rows / 1e6:g}M rows"

    def say(metric: str, unit: str, *values: float) -> None:
        setup.found.say(shape, variant, metric, unit, *values)

    say("compile, one model", "s", *(c for c, _ in runs))
    say("million rows/s, one model", "M/s", *(r / 1e6 for _, r in runs))
    seconds = models * statistics.fmean(c + rows / r for c, r in runs)
    say(f"{models} models one after another, extrapolated", "s", seconds)
    seconds = models * statistics.fmean(rows / r for _, r in runs)
    say(f"{models} models, compiling free, extrapolated", "s", seconds)


def compact_part(setup: Setup) -> None:
    """Some of the hundred as programs of their own, float32 as a trial of a search trains them."""
    sizes = setup.sizes
    data, num_ids = log(sizes["sample_rows"], sizes["ids"])
    configs, batch_size, runs = sample(sizes["models"]), sizes["batch"], []
    for config in sampled(configs, sizes["sample"]):
        program = program_of(config, num_ids, batch_size)
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
    extrapolate(setup, "compact programs f32", len(configs), runs)


def torch_part(setup: Setup) -> None:
    """Some of the hundred in PyTorch."""
    sizes = setup.sizes
    try:
        import torch  # pyright: ignore[reportMissingImports]

        from experiments.speed.torch_training import measure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"no PyTorch variants: {error}")
        return
    data, _ = log(sizes["sample_rows"], sizes["ids"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [torch.from_numpy(np.asarray(a)).to(device) for a in data]
    configs = sample(sizes["models"])
    steps = min(200, sizes["sample_rows"] // sizes["batch"] - 12)
    runs = []
    for config in sampled(configs, sizes["sample"]):
        found = measure(
            config,
            *tensors,
            batch_size=sizes["batch"],
            steps=steps,
            warmup=10,
            device=device,
            dtype="bfloat16",
            compile=True,
        )
        runs.append((found["compile_seconds"], found["rows_per_second"]))
        print(f"  torch width {config.width}, {config.num_layers} layers: {runs[-1]}", flush=True)
    extrapolate(setup, "torch.compile bf16", len(configs), runs)


def kernels_part(setup: Setup) -> None:
    """The tiny batched products, forward and backward: ours against the compiler's, results compared."""
    measure_products(setup.sizes["batch"], setup.options, setup.found)


PARTS: dict[str, Callable[[Setup], None]] = {
    "population": population_part,
    "single": single_part,
    "kernels": kernels_part,
    "products": products_part,
    "precision": precision_part,
    "compact": compact_part,
    "torch": torch_part,
}
HUNDRED = "100 DHENs (dhen_small), 10M rows, V=2M, B=4096"
DCN = "DCN-V2 rank 512, d=128, V=2M, B=65536"
# Targets by shape, variant and metric.
BOUNDS = {
    (HUNDRED, "population bf16", "total with compiling"): Target(300.0, at_most=True),
    ("MLP 400x3, d=16, V=2M, B=4096", "one model bf16", "million rows/s"): Target(10.0),
    (DCN, "one model bf16", "share of the measured matrix rate"): Target(40.0),
}
FULL = {
    "models": 100,
    "rows": 10_000_000,
    "ids": 2_000_000,
    "batch": 4096,
    "lanes": 16,
    "precision_rows": 2_000_000,
    "products_rows": 400_000,
    "seeds": 5,
    "single_rows": 4_000_000,
    "sample": 4,
    "sample_rows": 1_500_000,
}
SMALL = {
    "models": 4,
    "rows": 4_000,
    "ids": 2_000,
    "batch": 64,
    "lanes": 2,
    "precision_rows": 2_000,
    "products_rows": 4_000,
    "seeds": 2,
    "single_rows": 4_000,
    "sample": 1,
    "sample_rows": 4_000,
}


def main() -> None:
    """Runs the parts and adds their rows to the results."""
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
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_population.csv")
    options = parser.parse_args()
    sizes = dict(SMALL if options.small else FULL)
    sizes |= {n: v for n in FULL if (v := getattr(options, n)) is not None}
    quick = jax.default_backend() == "gpu" and not options.autotune
    setup = Setup(sizes, QUICK_TO_COMPILE if quick else None, Findings("population"))
    print(f"{jax.devices()}, {threading.active_count()} threads, {sizes}", flush=True)
    for part in options.part or PARTS:
        begun = time.perf_counter()
        try:
            PARTS[part](setup)
        except Exception as error:  # one failed part must not lose the figures of the others
            print(f"part {part} failed: {type(error).__name__}: {str(error)[:2000]}", flush=True)
        print(f"part {part}: {time.perf_counter() - begun:.0f} s", flush=True)
        if not options.small:
            write(options.out, setup.found.rows)


if __name__ == "__main__":
    main()
