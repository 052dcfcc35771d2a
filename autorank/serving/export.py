"""The winner as an artefact: weights (orbax), program (StableHLO through `jax.export`), and the data's schema.

    model/weights/      parameters and embedding rows
    model/program.bin   predict(params, rows, sparse [1024, f], dense [1024, m]) -> probabilities [1024, q]
    model/model.json    configuration, metrics, shapes, format version
    model/example.npz   a few encoded rows and their probabilities, checked at every load
    model/encoders.json how raw columns become ids and floats
    model/reading.json  how the log was read, and its share of unknown ids in each field

The program runs wherever a StableHLO of its version does; loading it needs no model code of this package.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.jax_settings import own_settings, training_settings
from autorank.base.typing import PyTree
from autorank.ledger.strict_json import dumps

FORMAT = 1
CHUNK = 1024  # rows of one call of the program; shorter input is padded
PLATFORMS = ("cpu", "cuda")
TOLERANCE = 1e-4  # of a probability, on another kind of device; the same device gives 1e-6


class Scorer(NamedTuple):
    """A loaded model: ids (field offsets added) and dense values to probabilities."""

    predict: Callable[[np.ndarray, np.ndarray], np.ndarray]  # [b, f], [b, m] -> [b, q]
    metrics: tuple[str, ...]
    description: Mapping[str, Any]


@training_settings()
def save_model(
    folder: Path,
    predict: Callable[..., jax.Array],
    params: PyTree,
    rows: jax.Array,
    *,
    num_fields: int,
    num_dense: int,
    metrics: tuple[str, ...],
    example: tuple[np.ndarray, np.ndarray],
    description: Mapping[str, Any],
) -> None:
    """Writes weights, program and description into an empty or missing ``folder``.

    ``example`` holds a few encoded rows; what the model gives for them is kept, and every load checks it.

    Raises:
        FileExistsError: the folder already holds a model.
    """
    from orbax.checkpoint import v1 as ocp

    if (folder / "model.json").exists():
        raise FileExistsError(f"{folder} already holds a model; choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"params": params, "rows": rows}
    ocp.save(str((folder / "weights").resolve()), weights, overwrite=True)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(
        shapes["params"],
        shapes["rows"],
        jax.ShapeDtypeStruct((CHUNK, num_fields), jnp.int32),
        jax.ShapeDtypeStruct((CHUNK, num_dense), jnp.float32),
    )
    (folder / "program.bin").write_bytes(exported.serialize())
    sparse, dense = (np.asarray(part[:CHUNK]) for part in example)
    np.savez(
        folder / "example.npz",
        sparse=sparse,
        dense=dense,
        probabilities=np.asarray(predict(params, rows, sparse, dense.astype(np.float32))),
    )
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    record = {
        "format": FORMAT,
        "metrics": list(metrics),
        "num_fields": num_fields,
        "num_dense": num_dense,
        "weights": [
            {"path": [str(k.key) for k in path], "shape": list(s.shape), "dtype": str(s.dtype)}
            for path, s in leaves
        ],
        "description": dict(description),
    }
    # Last: a folder with model.json is a whole model.
    (folder / "model.json").write_text(dumps(record, indent=1))


@own_settings()
def load_model(folder: Path) -> Scorer:
    """Loads what `save_model` wrote.

    Raises:
        FileNotFoundError: no model there.
        ValueError: another format, weights that do not fit, or other probabilities on the example rows.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder / "model.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no model (model.json is missing); give a finished run's model folder"
        )
    record = json.loads(path.read_text())
    if record["format"] != FORMAT:
        raise ValueError(
            f"{path}: format {record['format']} was written by another version; this one reads {FORMAT}"
        )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template: dict[str, Any] = {}
    for leaf in record["weights"]:
        node = template
        for key in leaf["path"][:-1]:
            node = node.setdefault(key, {})
        shape = jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]), sharding=device)
        node[leaf["path"][-1]] = shape
    weights = ocp.load(str((folder / "weights").resolve()), template)
    for found, wanted in zip(jax.tree.leaves(weights), jax.tree.leaves(template), strict=True):
        # Orbax casts another dtype without a word.
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ValueError(
                f"{folder}/weights: {found.shape} {found.dtype}, expected {wanted.shape} {wanted.dtype}"
            )
    exported = jax.export.deserialize(bytearray((folder / "program.bin").read_bytes()))
    call = jax.jit(exported.call)

    @own_settings()
    def predict(sparse: np.ndarray, dense: np.ndarray) -> np.ndarray:
        parts = []
        for first in range(0, len(sparse), CHUNK):
            ids, values = sparse[first : first + CHUNK], dense[first : first + CHUNK]
            short = CHUNK - len(ids)
            ids = np.pad(np.asarray(ids, np.int32), ((0, short), (0, 0)), mode="edge")
            values = np.pad(np.asarray(values, np.float32), ((0, short), (0, 0)))
            out = call(weights["params"], weights["rows"], ids, values)
            parts.append(np.asarray(out)[: CHUNK - short])
        return np.concatenate(parts) if parts else np.zeros((0, len(record["metrics"])), np.float32)

    with np.load(folder / "example.npz", allow_pickle=False) as example:
        found = predict(example["sparse"], example["dense"])
        error = float(np.abs(found - example["probabilities"]).max(initial=0.0))
    if not error <= TOLERANCE:
        raise ValueError(
            f"{folder}: on this machine the program differs from the trained model by {error:.2g} on its example rows"
        )
    return Scorer(predict, tuple(record["metrics"]), record["description"])
