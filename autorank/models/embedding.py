"""The feature layer: looked-up rows and dense features become the embeddings ``X0`` of the first layer."""

import flax.linen as nn
import jax.numpy as jnp

from autorank.base.typing import Array, Float
from autorank.models.blocks import Mlp

DENSE_FACTOR = 4  # own choice: hidden units of the dense features' MLP, in widths


def num_embeddings(num_fields: int, num_dense: int) -> int:
    """Embeddings that reach the first layer."""
    return num_fields + (num_dense > 0)


class Embedding(nn.Module):
    """An MLP turns the dense features into one more embedding, the last one (DLRM's feature layer, arXiv 1906.00091).

    Examples:
        >>> num_embeddings(num_fields=26, num_dense=13)
        27
    """

    width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b f d"], dense: Float[Array, "b n"]
    ) -> Float[Array, "b m d"]:
        """``m = f + 1`` with dense features, else ``f``."""
        num_dense = dense.shape[1]
        if not num_dense:
            return x
        hidden = DENSE_FACTOR * self.width
        mlp = Mlp(
            {"dense": num_dense}, {"width": self.width}, 1, hidden, "dense_hidden", name="dense"
        )
        return jnp.concatenate([x, mlp(dense)[:, None]], axis=1)
