"""From the last embeddings to logits, and what they mean: metrics, losses, probabilities.

- ``ctr``: one logit, the click.
- ``esmm`` (Ma et al. 2018, arXiv 1804.07931): logits of click and of conversion given a click; trained on the click and
  on click-and-conversion, ``p_ctcvr = p_ctr p_cvr``, both over all impressions.
- ``shared_bottom``: the same logits; the conversion is trained on clicked impressions only.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Num
from autorank.models.blocks import Hidden
from autorank.models.parameters import bias, kernel

METRICS: dict[str, tuple[str, ...]] = {
    "ctr": ("ctr",),
    "esmm": ("ctr", "cvr", "ctcvr"),
    "shared_bottom": ("ctr", "cvr", "ctcvr"),
}
_WEIGHTS = {"ctr": (1.0,), "esmm": (1.0, 0.0, 1.0), "shared_bottom": (1.0, 1.0, 0.0)}
NUM_LOGITS = {"ctr": 1, "esmm": 2, "shared_bottom": 2}


class Head(nn.Module):
    """A shared trunk over the flattened embeddings; one logit, or two from a tower each."""

    inputs: Mapping[str, int]
    depth: int
    width: int
    num_logits: int

    @nn.compact
    def __call__(self, x: Float[Array, "b m d"], depth: Array | None = None) -> Float[Array, "b t"]:
        """``t = num_logits``; hidden layers beyond ``depth`` (lanes) are skipped."""
        h = Hidden(self.inputs, self.depth, self.width, "head", name="trunk")(x, depth)
        hidden, tasks = {"head": self.width}, {"task": self.num_logits}
        offset = bias(self, "logit_bias", tasks)[None]
        if self.num_logits == 1:
            return h @ kernel(self, "logit", hidden, tasks) + offset
        units = {**tasks, "tower": self.width}
        towers = h @ kernel(self, "tower", hidden, units).reshape(self.width, -1)
        towers = towers.reshape(-1, *units.values()) + bias(self, "tower_bias", units)[None]
        logit = kernel(self, "logit", {"tower": self.width}, tasks)
        return jnp.einsum("btw,wt->bt", nn.relu(towers), logit) + offset


def objective_weights(head: str) -> Float[np.ndarray, " q"]:
    """Weight of each metric's mean loss in training, in the order of ``METRICS[head]``."""
    return np.array(_WEIGHTS[_known(head)], np.float32)


def task_losses(
    logits: Float[Array, "b t"], labels: Num[Array, "b c"], head: str
) -> tuple[Float[Array, "b q"], Bool[Array, "b q"], Float[Array, "b q"]]:
    """Log losses in nats, where each counts, and the 0/1 targets, one column for each of ``METRICS[head]``.

    ``labels`` column 0 is the click, column 1 the conversion (ignored by ``ctr``). CTR and CTCVR count on every
    impression, CVR on clicked ones; every loss is finite, also where it does not count.

    Raises:
        ValueError: a head with conversions and labels without them.
    """
    metrics = METRICS[_known(head)]
    click = labels[:, 0].astype(logits.dtype)
    if metrics == ("ctr",):
        loss = _binary(logits[:, 0], click)
        return loss[:, None], jnp.ones_like(loss, bool)[:, None], click[:, None]
    if labels.shape[1] < 2:
        raise ValueError(
            f"model.head={head!r} needs two label columns (click, conversion), the data has {labels.shape[1]}; "
            "write model.head=ctr"
        )
    conversion = labels[:, 1].astype(logits.dtype)
    both = click * conversion
    yes, no = _log_ctcvr(logits[:, 0], logits[:, 1])
    losses = (
        _binary(logits[:, 0], click),
        _binary(logits[:, 1], conversion),
        -jnp.where(both > 0, yes, no),
    )
    everywhere = jnp.ones_like(click, bool)
    return (
        jnp.stack(losses, axis=1),
        jnp.stack([everywhere, click > 0, everywhere], axis=1),
        jnp.stack([click, conversion, both], axis=1),
    )


def probabilities(logits: Float[Array, "b t"], head: str) -> Float[Array, "b q"]:
    """Predicted probability of each of ``METRICS[head]``; CTCVR is the product of the other two.

    Examples:
        >>> probabilities(jnp.zeros((1, 2)), "esmm").tolist()
        [[0.5, 0.5, 0.25]]
    """
    p = jax.nn.sigmoid(logits)
    if METRICS[_known(head)] == ("ctr",):
        return p[:, :1]
    return jnp.concatenate([p, p[:, :1] * p[:, 1:2]], axis=1)


def _binary(logit: Float[Array, " b"], target: Float[Array, " b"]) -> Float[Array, " b"]:
    """``-log sigmoid(+-logit)``, the sign by the target."""
    return jax.nn.softplus(jnp.where(target > 0, -logit, logit))


def _log_ctcvr(
    ctr: Float[Array, " b"], cvr: Float[Array, " b"]
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """``log p`` and ``log (1 - p)`` of ``p = sigmoid(ctr) sigmoid(cvr)``, no probability formed.

    ``1 - p = sigmoid(-ctr) + sigmoid(ctr) sigmoid(-cvr)``: a sum of positives, nothing cancels.
    """
    log_ctr = jax.nn.log_sigmoid(ctr)
    no = jnp.logaddexp(jax.nn.log_sigmoid(-ctr), log_ctr + jax.nn.log_sigmoid(-cvr))
    return log_ctr + jax.nn.log_sigmoid(cvr), no


def _known(head: str) -> str:
    if head not in METRICS:
        raise ValueError(f"model.head={head!r} is not known; write one of {', '.join(METRICS)}")
    return head
