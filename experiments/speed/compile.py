"""CPU seconds that compiling and running a training program takes, with XLA's options and with this project's.

    python -m experiments.speed.compile

Variants take turns in one process (CPU seconds, so neighbours on the machine matter little). Appends nothing; prints.
"""

import argparse
import statistics
import time
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.programs import compiler_options
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.trainer import make_program

ROWS, FIELDS, IDS, BATCH = 80_000, 10, 5_000, 256
MODELS = {
    "2 layers": DhenConfig(
        layer1=LayerConfig("fmb", "linear"), layer2=LayerConfig("fmb", "linear")
    ),
    "4 layers": DhenConfig(
        num_layers=4,
        layer1=LayerConfig("attention", "dot"),
        layer2=LayerConfig("cross", "mask"),
        layer3=LayerConfig("convolution", "cross_low"),
        layer4=LayerConfig("fmb", "attention"),
    ),
}


def measure(model: DhenConfig, data: Data, options: dict | None) -> tuple[float, float, float]:
    """CPU seconds of tracing, compiling, one pass over the rows."""
    program = make_program(
        compact(model, FIELDS, 2),
        head="ctr",
        width=model.width,
        num_ids=IDS,
        batch_size=BATCH,
        num_windows=100,
    )
    state = program.empty()
    hparams = Hparams(*(jnp.float32(v) for v in (1e-3, 0.05, 1e-8, 1e-8, 0.0, 1.0, 0.01)))
    schedule = Schedule(jnp.int32(ROWS // BATCH), jnp.int32(31))
    arguments = (
        jax.random.key(0),
        state,
        hparams,
        schedule,
        data,
        jnp.int32(0),
        jnp.int32(ROWS // BATCH),
    )
    marks = [time.process_time()]
    lowered = jax.jit(program.run, donate_argnums=1).lower(*arguments)
    marks.append(time.process_time())
    compiled = lowered.compile(compiler_options=options)
    marks.append(time.process_time())
    jax.block_until_ready(compiled(*arguments))
    marks.append(time.process_time())
    return marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]


def main() -> None:
    """Prints medians and ranges over repeats."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    data = Data(
        jnp.asarray(rng.integers(0, IDS, (ROWS, FIELDS)), jnp.int32),
        jnp.zeros((ROWS, 2)),
        jnp.asarray(rng.random((ROWS, 2)) < 0.4, jnp.float32),
    )
    variants = {"XLA's options": {"xla_cpu_multi_thread_eigen": False}, "ours": compiler_options()}
    print(f"jaxlib {version('jaxlib')}, {repeats} repeats, CPU seconds: median (low - high)")
    for name, model in MODELS.items():
        found: dict[str, list[tuple[float, float, float]]] = {v: [] for v in variants}
        for _ in range(repeats):
            for variant, options in variants.items():
                found[variant].append(measure(model, data, options))
        for variant, runs in found.items():
            parts = [
                f"{what} {statistics.median(c):.2f} ({min(c):.2f} - {max(c):.2f})"
                for what, c in zip(
                    ("trace", "compile", "run"), zip(*runs, strict=True), strict=True
                )
            ]
            print(f"{name:9s} {variant:14s} {', '.join(parts)}")


if __name__ == "__main__":
    main()
