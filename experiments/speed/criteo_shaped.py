"""Random DHENs and Criteo-shaped rows, made on the device: what the benchmarks of an accelerator train."""

import random
from typing import Any

import jax
import jax.numpy as jnp

from autorank.data.logs import criteo_like, criteo_like_truth
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.training.step import Data, Hparams, Schedule

# The space of configs/space/dhen_small.yaml; Hydra, which reads that file, is not needed here.
SPACE: dict[str, tuple[Any, ...]] = {
    "width": (8, 16, 32),
    "num_tokens": (8, 16),
    "rank": (8, 16),
    "heads": (1, 2, 4),
    "kernel": (1, 3, 5),
    "mlp_depth": (1, 2),
    "mlp_width": (32, 64, 128, 256),
    "norm": ("pre", "post", "none"),
    "ensemble": ("concat", "sum"),
    "head_depth": (1, 2),
    "head_width": (32, 64, 128),
}
MODULES = ("dot", "attention", "linear", "cross", "cross_low", "convolution", "fmb", "mask")
F, N = criteo_like_truth.NUM_FIELDS, criteo_like_truth.NUM_DENSE
WINDOWS = 100


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
    """The same rates for all models: arrays ``[count]``, or scalars for None."""
    one = Hparams(*map(jnp.float32, (1e-3, 0.05, 1e-8, 1e-8, 0.0, 1.0, 0.01)))
    return one if count is None else jax.tree.map(lambda v: jnp.full(count, v), one)


def log(num_rows: int, max_vocabulary: int) -> tuple[Data, int]:
    """Rows on the device (float16 dense features, int8 labels), and the number of rows of the table."""
    rows = criteo_like.device_arrays(
        0, num_rows, max_vocabulary=max_vocabulary, dense_dtype=jnp.float16
    )
    jax.block_until_ready(rows.sparse)
    return Data(rows.sparse, rows.dense, rows.labels), sum(criteo_like_truth.sizes(max_vocabulary))


def schedule(data: Data, batch_size: int) -> Schedule:
    """One pass over the rows, a tenth of it warm-up."""
    steps = data.sparse.shape[0] // batch_size
    return Schedule(jnp.int32(steps), jnp.int32(max(1, steps // 10)))
