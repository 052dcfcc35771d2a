"""Where the rows of a log lie: on one device, or with a part of every batch on each of several."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from autorank.training import sharded
from autorank.training.step import Data


def checked_mesh(devices: int, workers: int, precision: str) -> Mesh | None:
    """The devices that every model is spread over; None for one.

    Raises:
        ValueError: devices that are not there, or with more than one worker or another precision than float32.
    """
    if devices == 1:
        return None
    mesh = sharded.device_mesh(devices)
    if workers > 1:
        raise ValueError(
            f"training.devices={devices} with search.workers={workers}: programs that exchange rows over the same "
            "devices wait for each other for ever if they overlap; write search.workers=1 (or workers=1 when tuning)"
        )
    if precision != "float32":
        raise ValueError(
            f"training.precision={precision} with training.devices={devices}: a model that is spread over devices "
            "trains in float32; write training.precision=float32"
        )
    return mesh


def on_devices(rows: Sequence[np.ndarray], mesh: Mesh | None, batch_size: int) -> Data:
    """Sparse ``[r, f]``, dense ``[r, n]`` and labels ``[r, q]``, on one device or over those of ``mesh``."""
    sparse, dense, labels = rows
    if mesh is not None:
        return sharded.place(sparse, dense, labels, mesh, batch_size)
    return Data(
        jnp.asarray(sparse), jnp.asarray(dense, jnp.float32), jnp.asarray(labels, jnp.float32)
    )


def padded(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """The rows with the last one repeated up to a whole batch.

    Examples:
        >>> padded(np.array([[1], [2], [3]]), 2).ravel()
        array([1, 2, 3, 3])
    """
    return np.pad(rows, ((0, -len(rows) % batch_size), (0, 0)), mode="edge")
