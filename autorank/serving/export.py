"""Exports a model: weights (orbax), program (StableHLO through `jax.export`), and the schema of its data.

    model/weights/      parameters and embedding rows
    model/program.bin   predict(params, rows, sparse [1024, f], dense [1024, m]) -> probabilities [1024, q]
    model/model.json    configuration, metrics, shapes, format version
    model/example.npz   a few encoded rows and their probabilities, checked by every load
    model/encoders.json how raw columns become ids and floats
    model/reading.json  how the log was read, and its share of unknown ids in each field

The program runs wherever its version of StableHLO does; loading it needs no model code of this package.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.jax_settings import own_settings, training_settings
from autorank.base.programs import compiler_options
from autorank.base.typing import PyTree
from autorank.ledger.strict_json import dumps

FORMAT = 1
CHUNK = 1024  # rows per call of the program; shorter inputs are padded
PLATFORMS = ("cpu", "cuda")
TOLERANCE = 1e-4  # error of a probability on another kind of device; on the same kind it is 1e-6
# Of matrix products. A GPU's default rounds their inputs to ten bits in some kernels, so that a model would give other
# probabilities for 256 rows than for 1024.
PRECISION = "highest"


@runtime_checkable
class Predict(Protocol):
    """Predicts probabilities from encoded rows."""

    def __call__(self, sparse: np.ndarray, dense: np.ndarray, /) -> np.ndarray:
        """Probabilities float32 [b, q] from ids int32 [b, f] with offsets added and dense float32 [b, m]."""
        ...


@runtime_checkable
class TracedPredict(Protocol):
    """A model's prediction as a function that JAX can trace and export."""

    def __call__(self, params: PyTree, rows: Any, sparse: Any, dense: Any, /) -> jax.Array:
        """Probabilities [b, q] from parameters, embedding rows, ids [b, f] and dense values [b, m]."""
        ...


class Scorer(NamedTuple):
    """A loaded model.

    Attributes:
        predict: the exported program with its weights.
        metrics: what each of the q columns of probabilities predicts.
        description: as given to `save_model`.
    """

    predict: Predict
    metrics: tuple[str, ...]
    description: Mapping[str, Any]


@training_settings()
def save_model(
    folder: Path,
    predict: TracedPredict,
    params: PyTree,
    rows: jax.Array,
    *,
    num_fields: int,
    num_dense: int,
    metrics: tuple[str, ...],
    example: tuple[np.ndarray, np.ndarray],
    description: Mapping[str, Any],
) -> None:
    """Writes weights, program and description into a folder, which is created if it does not exist.

    Args:
        predict: the prediction, of ids [b, num_fields] and dense values [b, num_dense].
        params, rows: its parameters and embedding rows [v, d].
        metrics: what each column of probabilities predicts.
        example: a few encoded rows, on which every load verifies the predictions.

    Raises:
        FileExistsError: the folder already holds a model.

    Examples:
        >>> import tempfile
        >>> def predict(params, rows, sparse, dense):
        ...     return jax.nn.sigmoid(rows[sparse].sum((1, 2)) + dense @ params["weights"])[:, None]
        >>> params, rows = {"weights": jnp.ones(1)}, jnp.zeros((4, 2))
        >>> encoded = np.zeros((2, 1), np.int32), np.zeros((2, 1), np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(
        ...         Path(folder) / "model", predict, params, rows, num_fields=1, num_dense=1, metrics=("ctr",),
        ...         example=encoded, description={},
        ...     )
        ...     scorer = load_model(Path(folder) / "model")
        >>> scorer.metrics, scorer.predict(*encoded).tolist()
        (('ctr',), [[0.5], [0.5]])
    """
    from orbax.checkpoint import v1 as ocp

    if (folder / "model.json").exists():
        raise FileExistsError(f"{folder} already holds a model; choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"params": params, "rows": rows}
    ocp.save(str((folder / "weights").resolve()), weights, overwrite=True)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    _save_program(folder, predict, shapes, num_fields, num_dense)
    _save_example(folder, predict, weights, example)
    record = {
        "format": FORMAT,
        "metrics": list(metrics),
        "num_fields": num_fields,
        "num_dense": num_dense,
        "weights": _describe_leaves(shapes),
        "description": dict(description),
    }
    # Written last, so that a folder with model.json is a complete model.
    (folder / "model.json").write_text(dumps(record, indent=1))


def _save_program(
    folder: Path, predict: TracedPredict, shapes: PyTree, num_fields: int, num_dense: int
) -> None:
    """Exports the prediction for `CHUNK` rows, with the weights as arguments."""
    arguments = (
        shapes["params"],
        shapes["rows"],
        jax.ShapeDtypeStruct((CHUNK, num_fields), jnp.int32),
        jax.ShapeDtypeStruct((CHUNK, num_dense), jnp.float32),
    )
    with jax.default_matmul_precision(PRECISION):
        exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(*arguments)
    (folder / "program.bin").write_bytes(exported.serialize())


def _save_example(
    folder: Path,
    predict: TracedPredict,
    weights: Mapping[str, Any],
    example: tuple[np.ndarray, np.ndarray],
) -> None:
    """A few encoded rows, with the trained model's probabilities."""
    sparse, dense = (np.asarray(part[:CHUNK]) for part in example)
    with jax.default_matmul_precision(PRECISION):
        program = jax.jit(predict, compiler_options=compiler_options())
        found = program(weights["params"], weights["rows"], sparse, dense.astype(np.float32))
    probabilities = np.asarray(found)
    np.savez(folder / "example.npz", sparse=sparse, dense=dense, probabilities=probabilities)


@own_settings()
def load_model(folder: Path) -> Scorer:
    """Loads what `save_model` wrote.

    Raises:
        FileNotFoundError: no model there.
        ValueError: an unsupported format, weights that do not match, or different probabilities for the example rows.
    """
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
    weights = _load_weights(folder, record["weights"])
    exported = jax.export.deserialize(bytearray((folder / "program.bin").read_bytes()))
    call = jax.jit(exported.call, compiler_options=compiler_options())

    @own_settings()
    def predict(sparse: np.ndarray, dense: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(sparse), CHUNK):
            ids, values = sparse[first : first + CHUNK], dense[first : first + CHUNK]
            short = CHUNK - len(ids)
            ids = np.pad(np.asarray(ids, np.int32), ((0, short), (0, 0)), mode="edge")
            values = np.pad(np.asarray(values, np.float32), ((0, short), (0, 0)))
            out = call(weights["params"], weights["rows"], ids, values)
            found.append(np.asarray(out)[: CHUNK - short])
        return np.concatenate(found) if found else np.zeros((0, len(record["metrics"])), np.float32)

    _verify_example(folder, predict)
    return Scorer(predict, tuple(record["metrics"]), record["description"])


def _describe_leaves(shapes: PyTree) -> list[dict[str, Any]]:
    """The path, shape and dtype of each array of nested dicts."""
    return [
        {"path": [str(k.key) for k in path], "shape": list(s.shape), "dtype": str(s.dtype)}
        for path, s in jax.tree_util.tree_flatten_with_path(shapes)[0]
    ]


def _load_weights(folder: Path, leaves: list[dict[str, Any]]) -> dict[str, Any]:
    """The weights as nested dicts; ``leaves`` has the path, shape and dtype of each array."""
    from orbax.checkpoint import v1 as ocp

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template: dict[str, Any] = {}
    for leaf in leaves:
        node = template
        for key in leaf["path"][:-1]:
            node = node.setdefault(key, {})
        shape = jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]), sharding=device)
        node[leaf["path"][-1]] = shape
    weights = ocp.load(str((folder / "weights").resolve()), template)
    for found, wanted in zip(jax.tree.leaves(weights), jax.tree.leaves(template), strict=True):
        # Orbax silently casts to the dtype of the template.
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ValueError(
                f"{folder}/weights: {found.shape} {found.dtype}, expected {wanted.shape} {wanted.dtype}"
            )
    return weights


def _verify_example(folder: Path, predict: Predict) -> None:
    """Compares the predictions for the example rows with those of the trained model."""
    with np.load(folder / "example.npz", allow_pickle=False) as example:
        found = predict(example["sparse"], example["dense"])
        error = float(np.abs(found - example["probabilities"]).max(initial=0.0))
    if not error <= TOLERANCE:
        raise ValueError(
            f"{folder}: on this machine the program differs from the trained model by {error:.2g} on its example rows"
        )
