"""The nets of the ensemble: small MLPs, and their initial parameters."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Key, PyTree

TASKS = 2  # NE gain in percent, log FLOPs ratio


class Net(nn.Module):
    """An MLP with two outputs, or with ``shared=False`` an MLP with one output for each task."""

    hidden: tuple[int, ...]
    shared: bool

    @property
    def trunks(self) -> int:
        """The number of separate MLPs."""
        return 1 if self.shared else TASKS

    def after_first_layer(self, weights: PyTree, inputs: list[Array]) -> Float[Array, "n 2"]:
        """Scores of one member from the products ``[n, h]`` of its first layers, without bias.

        Args:
            weights: of the member.
            inputs: the products, one array for each trunk.
        """
        outputs = []
        for trunk, h in enumerate(inputs):
            for layer in range(len(self.hidden)):
                dense = weights[f"trunk{trunk}_layer{layer}"]
                h = nn.relu((h @ dense["kernel"] if layer else h) + dense["bias"][None])
            head = weights[f"trunk{trunk}_head"]
            outputs.append(h @ head["kernel"] + head["bias"][None])
        return jnp.concatenate(outputs, axis=-1)

    @nn.compact
    def __call__(self, x: Float[Array, "n x"]) -> Float[Array, "n 2"]:
        """Scores of both tasks for features ``[n, x]``."""
        outputs = []
        for trunk in range(self.trunks):
            h = x
            for layer, width in enumerate(self.hidden):
                h = nn.relu(nn.Dense(width, name=f"trunk{trunk}_layer{layer}")(h))
            outputs.append(nn.Dense(TASKS if self.shared else 1, name=f"trunk{trunk}_head")(h))
        return jnp.concatenate(outputs, axis=-1)


def initial_params(key: Key, shapes: PyTree, members: int) -> PyTree:
    """LeCun-uniform kernels and zero biases of all members, ``[e, ...]``, from a single draw.

    The initialisers of the layers, mapped over members, took longer to compile on a CPU (5 s) than the whole fit runs.
    """
    leaves, tree = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])
    draw = jax.random.uniform(key, (members, int(ends[-1])), minval=-1.0, maxval=1.0)
    scales = [math.sqrt(3 / leaf.shape[0]) if leaf.ndim == 2 else 0.0 for leaf in leaves]
    return tree.unflatten(
        scale * part.reshape(members, *leaf.shape)
        for scale, part, leaf in zip(
            scales, jnp.split(draw, ends[:-1].tolist(), axis=1), leaves, strict=True
        )
    )
