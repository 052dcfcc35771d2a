import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.serving.export import CHUNK, load_model, save_model

ROWS = jax.random.normal(jax.random.key(0), (50, 2))
PARAMS = {"a": {"kernel": jnp.array([[1.0, 2.0], [0.5, -1.0]])}}
IDS = np.random.default_rng(0).integers(0, 50, (CHUNK + 7, 4)).astype(np.int32)
DENSE = np.zeros((CHUNK + 7, 0), np.float32)


def predict(params, rows, sparse, dense):
    return jax.nn.sigmoid(rows[jnp.asarray(sparse)].sum(axis=1) @ params["a"]["kernel"])


def save(folder):
    save_model(
        folder,
        predict,
        PARAMS,
        ROWS,
        num_fields=4,
        num_dense=0,
        metrics=("ctr", "cvr"),
        example=(IDS[:9], DENSE[:9]),
        description={"why": "test"},
    )


def test_any_number_of_rows_scores_as_the_model_does(tmp_path):
    save(tmp_path / "model")
    scorer = load_model(tmp_path / "model")
    assert scorer.metrics == ("ctr", "cvr") and scorer.description["why"] == "test"
    for n in (0, 1, CHUNK, CHUNK + 7):
        found = scorer.predict(IDS[:n], DENSE[:n])
        np.testing.assert_allclose(found, predict(PARAMS, ROWS, IDS[:n], None), atol=1e-6)


def test_products_are_exact_on_any_device(tmp_path):
    """With a GPU's default, an exported model differed from itself by 1.1e-4: ten bits of each float32 are kept."""
    save(tmp_path / "model")
    exported = jax.export.deserialize(bytearray((tmp_path / "model" / "program.bin").read_bytes()))
    products = [
        line for line in exported.mlir_module().splitlines() if "stablehlo.dot_general" in line
    ]
    assert products and all("HIGHEST" in line for line in products)


def test_a_model_is_never_overwritten(tmp_path):
    save(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a model"):
        save(tmp_path)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.json is missing"):
        load_model(tmp_path)
    save(tmp_path)
    path = tmp_path / "model.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_model(tmp_path)
    path.write_text(json.dumps(record))
    example = dict(np.load(tmp_path / "example.npz"))
    np.savez(tmp_path / "example.npz", **example | {"probabilities": 1 - example["probabilities"]})
    with pytest.raises(ValueError, match="differs from the trained model"):
        load_model(tmp_path)
