"""The PyTorch peer of the benchmarks computes what the compact build computes, and learns alike."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.dhen import CHOICES, DhenConfig, LayerConfig, canonical, compact, parameters
from autorank.models.interactions import MODULES
from autorank.models.parameters import fill, noise_size
from autorank.training.tables import Table, deduplicate, look_up, rowwise_adagrad, sum_duplicates

pytest.importorskip("torch")
import torch  # pyright: ignore[reportMissingImports]

from experiments.speed import torch_dhen as peer
from experiments.speed import torch_tables as tables
from experiments.speed.torch_training import measure

torch.set_num_threads(1)  # its threads would wait for each other on a busy machine
NAMES = tuple(MODULES)
COUNT = 12


def random_config(i: int) -> DhenConfig:
    """Every norm with every ensemble, every module at least once; the rest random."""
    rng = random.Random(i)
    modules = [[NAMES[i % len(NAMES)]], *([] for _ in range(rng.randint(0, 2)))]
    for layer in modules:
        layer += rng.sample((*NAMES, "none"), rng.randint(0, 2))
    return DhenConfig(
        width=rng.choice((4, 8, 12)),
        num_layers=len(modules),
        **{f"layer{n}": LayerConfig(*layer) for n, layer in enumerate(modules, start=1)},
        num_tokens=rng.choice((3, 7)),
        rank=rng.choice((2, 5)),
        heads=rng.choice((1, 2, 4)),
        kernel=rng.choice((1, 3, 5)),
        mlp_depth=rng.choice((1, 2)),
        mlp_width=rng.choice((8, 17)),
        norm=CHOICES["norm"][i % 3],
        ensemble=CHOICES["ensemble"][i // 3 % 3],
        head_depth=rng.choice((1, 2)),
        head_width=rng.choice((6, 16)),
    )


@pytest.mark.parametrize("i", range(COUNT))
def test_equal_logits(i):
    config, num_fields, num_dense, num_ids = random_config(i), 5, (0, 3)[i % 2], 40
    rng = np.random.default_rng(i)
    ours = compact(config, num_fields, num_dense)
    # Offsets and scales, too, off their initial values.
    tree = parameters(config, num_fields, num_dense)
    noise = rng.standard_normal(noise_size(tree)).astype(np.float32)
    params = jax.tree.map(
        lambda p: p + 0.3 * rng.standard_normal(p.shape).astype(np.float32),
        fill(noise, tree, lambda leaf: np.float32(leaf.fan_in**-0.5)),
    )
    ids = rng.integers(0, num_ids, (16, num_fields)).astype(np.int32)
    dense = rng.standard_normal((16, num_dense)).astype(np.float32)
    model = peer.TorchDhen(config, num_fields, num_dense, num_ids)
    torch.nn.init.normal_(model.table.weight)
    peer.load(model, params)
    rows = model.table.weight.detach().numpy()[ids]
    arguments = jax.tree.map(jnp.asarray, (params, rows, dense))
    expected = np.asarray(jax.jit(ours.apply)(*arguments))
    with torch.no_grad():
        found = model(torch.from_numpy(ids), torch.from_numpy(dense)).numpy()
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_configurations_cover_the_family():
    configs = [random_config(i) for i in range(COUNT)]
    pairs = {(canonical(c).norm, c.ensemble) for c in configs}
    assert pairs == {(n, e) for n in CHOICES["norm"] for e in CHOICES["ensemble"]}
    assert {c.layer1.a for c in configs} == set(NAMES)
    assert {c.kernel for c in configs if c.layer1.a == "convolution"} - {1}


def test_one_step_of_the_table_is_ours():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 4)).astype(np.float32)
    table = Table(jnp.asarray(rows), jnp.zeros(20), jnp.zeros(20, jnp.int32))
    embedding = torch.nn.Embedding(20, 4, sparse=True)
    embedding.weight.data.copy_(torch.from_numpy(rows))
    optimizer = tables.RowwiseAdagrad(embedding.parameters(), lr=0.1, eps=1e-3)
    for _ in range(3):
        ids = rng.integers(0, 12, (10, 3)).astype(np.int32)  # many duplicates
        factor = rng.standard_normal((10, 3, 4)).astype(np.float32)
        touched, owner = deduplicate(jnp.asarray(ids), table.owner)
        slope = jax.grad(lambda x, f=factor: jnp.sum(jnp.sin(x) * f))(
            look_up(table, jnp.asarray(ids))
        )
        slope = sum_duplicates(slope, touched)
        rate, eps = jnp.float32(0.1), jnp.float32(1e-3)
        table = rowwise_adagrad(table._replace(owner=owner), touched, slope, rate=rate, eps=eps)
        optimizer.zero_grad()
        (embedding(torch.from_numpy(ids)).sin() * torch.from_numpy(factor)).sum().backward()
        optimizer.step()
    found = embedding.weight.detach().numpy()
    np.testing.assert_allclose(found, table.rows, rtol=1e-5, atol=1e-6)
    assert (found[12:] == rows[12:]).all()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch.optim.Adagrad's
@pytest.mark.parametrize("table", tables.TABLE_OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_measure_learns(table, dtype):
    rng = torch.Generator().manual_seed(0)
    sparse = torch.randint(0, 10, (9_600, 4), generator=rng)
    labels = (sparse[:, :1] + sparse[:, 1:2] >= 9).float()
    config = DhenConfig(layer1=LayerConfig("attention", "dot"), layer2=LayerConfig("fmb", "linear"))
    options = {"batch_size": 64, "device": "cpu", "dtype": dtype, "compile": False, "table": table}
    found = measure(config, sparse, torch.zeros(9_600, 0), labels, steps=30, warmup=120, **options)
    assert found["loss"] < 0.1  # nats, of 0.69 for a constant
    assert found["rows_per_second"] > 0 and found["compile_seconds"] > 0


def test_errors_say_what_to_write():
    with pytest.raises(ValueError, match="write model.head=ctr"):
        peer.TorchDhen(DhenConfig(head="esmm"), 2, 0, 5)
    config = DhenConfig(layer1=LayerConfig("linear"))
    params = fill(np.ones(40_000, np.float32), parameters(config, 3, 0), lambda leaf: 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        peer.load(peer.TorchDhen(config, 4, 0, 5), params)
    params.pop("head")
    with pytest.raises(ValueError, match="lack head.trunk"):
        peer.load(peer.TorchDhen(config, 3, 0, 5), params)
    data = (torch.zeros((8, 3), dtype=torch.int64), torch.zeros(8, 0), torch.zeros(8, 1))
    options = {"batch_size": 4, "warmup": 1, "device": "cpu"}
    with pytest.raises(ValueError, match="do not fit 8 rows"):
        measure(config, *data, steps=2, **options)
    with pytest.raises(ValueError, match="write float32 or bfloat16"):
        measure(config, *data, steps=1, dtype="float16", **options)
