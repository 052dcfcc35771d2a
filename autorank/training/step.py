"""What a training step does, whichever trainer runs it: one model, the lanes of a population, a model over devices.

Every batch is scored before it is learned from. A trainer slices its batch, looks its rows up, calls `batch_loss` on
the logits, `learn` on the dense gradient, updates its table, and ends with `advance`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from autorank.base.typing import Array, Bool, Float, Int, Num, PyTree
from autorank.models.heads import objective_weights, task_losses
from autorank.training.tables import Table


class Hparams(NamedTuple):
    """What a trial may change without a new program; float32 scalars (``[p]`` for a population).

    Outside of programs they may be NumPy's, which cost nothing to make.
    """

    dense_rate: Float[Array, "..."]
    table_rate: Float[Array, "..."]
    dense_eps: Float[Array, "..."]
    table_eps: Float[Array, "..."]
    weight_decay: Float[Array, "..."]
    init_scale: Float[Array, "..."]
    table_scale: Float[Array, "..."]


class Data(NamedTuple):
    """Rows in time order, on the device."""

    sparse: Int[Array, "n f"]
    dense: Float[Array, "n m"]
    labels: Float[Array, "n t"]


class Schedule(NamedTuple):
    """Lengths in steps of the *full* run; a partial run uses the same ones."""

    num_steps: Int[Array, "..."]
    warmup_steps: Int[Array, "..."]


class Curve(NamedTuple):
    """Sums per window of predict-before-train, from which window and lifetime NE follow."""

    losses: Float[Array, "... q"]  # nats
    positives: Float[Array, "... q"]
    counts: Float[Array, "... q"]  # rows


class TrainState(NamedTuple):
    """What a run carries from step to step."""

    params: PyTree
    optimizer: PyTree
    table: Table
    curve: Curve  # [t, q]
    step: Int[Array, "..."]
    failed_step: Int[Array, "..."]  # first step with a non-finite loss, -1 for none


class Progress(NamedTuple):
    """The part of a state that counts steps."""

    curve: Curve
    step: Int[Array, ""]
    failed_step: Int[Array, ""]


def adamw(hparams: Hparams, factor: Array) -> optax.GradientTransformation:
    """AdamW at ``factor`` of its rate (Loshchilov and Hutter 2019)."""
    return optax.adamw(
        hparams.dense_rate * factor,
        eps=hparams.dense_eps,  # pyright: ignore[reportArgumentType]
        weight_decay=hparams.weight_decay,  # pyright: ignore[reportArgumentType]
    )


def dense_optimizer(hparams: Hparams, factor: Array) -> optax.GradientTransformation:
    """`adamw` on one flat vector: one fused update instead of one for each array."""
    return optax.flatten(adamw(hparams, factor))


def learn(
    optimizer: optax.GradientTransformation, gradient: PyTree, state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
    """The dense parameters and the optimiser's state after one gradient."""
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def warmup(step: Int[Array, ""], schedule: Schedule) -> Float[Array, ""]:
    """Factor on the learning rates: linear warm-up."""
    return jnp.minimum(1.0, (step + 1) / jnp.maximum(schedule.warmup_steps, 1))


def batch_loss(
    logits: Float[Array, "b t"],
    labels: Num[Array, "b c"],
    head: str,
    over_devices: Callable[[Array], Array] = lambda counts: counts,
) -> tuple[Float[Array, ""], Curve]:
    """Mean loss of a batch, weighted over the metrics, and its sums ``[q]`` for the curve.

    ``over_devices`` adds the counts of a batch that is spread over devices; the loss is this device's summand then.
    """
    losses, where, targets = task_losses(logits, labels, head)
    where = where.astype(losses.dtype)
    sums = jnp.sum(jnp.where(where > 0, losses, 0.0), axis=0)
    counts = over_devices(jnp.sum(where, axis=0))
    weights = jnp.asarray(objective_weights(head), jnp.float32)
    loss = jnp.sum(weights * sums / jnp.maximum(counts, 1.0))
    return loss, Curve(sums, jnp.sum(targets * where, axis=0), counts)


def advance(
    progress: Progress,
    sums: Curve,
    healthy: Bool[Array, ""],
    schedule: Schedule,
    num_windows: int,
) -> Progress:
    """One step later: the batch's sums are in their window, and an unhealthy step is remembered."""
    curve, step, failed_step = progress
    window = step * num_windows // jnp.maximum(schedule.num_steps, 1)
    return Progress(
        Curve(*(c.at[window].add(s) for c, s in zip(curve, sums, strict=True))),
        step + 1,
        jnp.where(healthy, failed_step, step),
    )
