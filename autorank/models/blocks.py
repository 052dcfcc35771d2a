"""The blocks that modules and heads share: layer norm, hidden layers, an MLP."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array
from autorank.models.maps import product
from autorank.models.parameters import bias, kernel

EPS = 1e-6  # of every layer norm; new embedding rows have variances around 1e-4


class Norm(nn.Module):
    """Layer norm over the trailing axes named in ``axes`` (Ba et al. 2016), population variance."""

    axes: Mapping[str, int]

    @nn.compact
    def __call__(self, x: Array, where: Array | None = None) -> Array:
        """``where`` (shape of ``axes``) marks the active entries; ``x`` is zero outside them, and so is the result."""
        over = tuple(range(-len(self.axes), 0))
        lead = tuple(range(x.ndim - len(self.axes)))
        # Moments are float32, also those of bfloat16 activations.
        dtype, x = x.dtype, x.astype(jnp.float32)
        if where is None:
            x = x - jnp.mean(x, axis=over, keepdims=True)
            variance = jnp.mean(jnp.square(x), axis=over, keepdims=True)
        else:
            count = jnp.maximum(jnp.sum(where), 1).astype(x.dtype)
            inside = jnp.expand_dims(where, lead)
            # Zeros outside would give the same mean, but a gradient to what lies there.
            mean = jnp.sum(jnp.where(inside, x, 0.0), axis=over, keepdims=True) / count
            x = jnp.where(inside, x - mean, 0.0)
            variance = jnp.sum(jnp.square(x), axis=over, keepdims=True) / count
        scale = jnp.expand_dims(bias(self, "scale", self.axes), lead)
        offset = jnp.expand_dims(bias(self, "bias", self.axes), lead)
        return (x * jax.lax.rsqrt(variance + EPS) * scale + offset).astype(dtype)


class Hidden(nn.Module):
    """``depth`` fully connected layers with ReLU over flattened inputs; layer i's axis is ``<axis>i``."""

    inputs: Mapping[str, int]
    depth: int
    width: int
    axis: str

    @nn.compact
    def __call__(
        self, x: Array, depth: Array | None = None, columns: np.ndarray | None = None
    ) -> Array:
        """``[b, *inputs]`` -> ``[b, width]``; layers beyond ``depth`` (lanes) are skipped.

        With ``columns``, ``x`` is ``[b, n]`` and those of its columns are the inputs: choosing weights instead of
        activations leaves one plain product.
        """
        x = x.reshape(x.shape[0], -1)
        inputs = self.inputs
        for i in range(1, self.depth + 1):
            outputs = {f"{self.axis}{i}": self.width}
            weight = kernel(self, f"kernel{i}", inputs, outputs).reshape(-1, self.width)
            if columns is not None and i == 1:
                empty = jnp.zeros((x.shape[1], self.width), weight.dtype)
                weight = empty.at[columns].set(weight, unique_indices=True)
            y = nn.relu(product(x, weight) + bias(self, f"bias{i}", outputs)[None])
            x = y if depth is None or i == 1 else jnp.where(i <= depth, y, x)
            inputs = outputs
        return x


class Mlp(nn.Module):
    """`Hidden` layers and a linear one."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    depth: int
    width: int
    axis: str = "mlp"

    @nn.compact
    def __call__(
        self, x: Array, depth: Array | None = None, columns: np.ndarray | None = None
    ) -> Array:
        """``[b, *inputs]`` -> ``[b, *outputs]``; ``columns`` as in `Hidden`."""
        hidden = Hidden(self.inputs, self.depth, self.width, self.axis, name="hidden")
        x = hidden(x, depth, columns)
        weight = kernel(self, "out", {self.axis: self.width}, self.outputs)
        y = product(x, weight.reshape(self.width, -1))
        return y.reshape(-1, *self.outputs.values()) + bias(self, "bias", self.outputs)[None]
