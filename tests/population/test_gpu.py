"""The lanes' kernels as a GPU runs them, against compact models; skipped where there is no GPU.

Other tests interpret the kernels on a CPU, where additions of several programs to one number are other code. On a GPU:

    XLA_FLAGS= JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=highest pytest tests/population/test_gpu.py
"""

import random

import jax
import pytest

from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.population.kernels import relaxed
from autorank.population.kernels.row_formulas import FORMULAS
from tests.population import test_network
from tests.population.test_kernels import CONFIGS, SIZES
from tests.population.test_network import Shared

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="needs a GPU; other tests interpret the kernels"
)
KERNELS = sorted(FORMULAS)


def random_configs(count: int) -> list[DhenConfig]:
    """Models of `dhen_small`'s sizes, of every module that kernels have."""
    rng = random.Random(0)
    pick = rng.choice
    return [
        DhenConfig(
            width=pick((8, 16, 32)),
            num_layers=2,
            layer1=LayerConfig(pick(KERNELS), pick(("none", *KERNELS))),
            layer2=LayerConfig(pick(KERNELS), pick(("none", *KERNELS))),
            num_tokens=pick((8, 16)),
            rank=pick((4, 8)),
            heads=pick((1, 2, 4)),
            kernel=pick((1, 3, 5)),
            mlp_depth=pick((1, 2)),
            mlp_width=pick((32, 64)),
            norm=pick(("pre", "post", "none")),
            ensemble=pick(("concat", "sum", "weighted")),
            head_width=64,
        )
        for _ in range(count)
    ]


def test_additions_are_relaxed():
    assert relaxed.IS_RELAXED


def test_every_formula():
    Shared(CONFIGS, split=True, lanes=4, kernels="gpu").check(CONFIGS, gradients=len(CONFIGS))


def test_random_models_of_twelve_fields_in_batches_of_64(monkeypatch):
    """Many programs add to each number of a gradient: sums of up to a hundred, so 1e-4 is their rounding."""
    monkeypatch.setattr(test_network, "F", 12)
    monkeypatch.setattr(test_network, "B", 64)
    configs = random_configs(8)
    shared = Shared(configs, split=True, lanes=20, kernels="gpu")
    shared.check(configs, gradients=len(configs), close=1e-4)


def test_rows_of_38_embeddings_of_width_32(monkeypatch):
    """Of KuaiRand's size."""
    monkeypatch.setattr(test_network, "F", 37)
    layer = {"layer1": LayerConfig("attention", "fmb")}
    config = DhenConfig(width=32, num_layers=1, heads=2, norm="pre", **layer, **SIZES)
    Shared([config], split=True, lanes=1, kernels="gpu").check([config], gradients=1)
