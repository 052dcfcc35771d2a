"""The ensemble that stands in for training: configuration in, NE gain and log FLOPs out.

Lower is better for both.

Members are small MLPs that share all but their last layer between the two tasks and differ by seed
(and resample, if asked). A ranking loss leaves each member's scale free, so a member's output is
z-scored per task over the finished training configurations before members are averaged (own choice;
"raw" leaves it). Source: arXiv 2311.07870; Adam's settings, the z-score and the treatment of failed
trials are own choices.

A failed trial (NaN target 0 inside ``where``) must become less likely: it counts as worse than
every finished one, one standard deviation beyond the worst. For a ranking loss only the order
matters, and failed trials tie.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from autorank.base.metrics import kendall_tau_b
from autorank.base.typing import Array, Bool, Float, Int, Key, PyTree
from autorank.surrogates.losses import LOSSES
from autorank.surrogates.settings import PredictorConfig, loss_of

TASKS = 2  # NE gain in percent, log FLOPs ratio


class FitState(NamedTuple):
    """A fitted ensemble of ``e`` members."""

    params: PyTree  # [e, ...]
    mean: Array  # float32 [e, 2], taken from the member's output ...
    sd: Array  # float32 [e, 2], ... which is then divided by this
    loss: Array  # float32 [e], training loss after the last step


class Scores(NamedTuple):
    """Mean over members and their standard deviation, float32 ``[n, 2]``; lower is better."""

    mean: Array
    spread: Array


class Predictor(NamedTuple):
    """Fits and scores configurations; both are pure and jitted by the caller."""

    fit: Callable[[Key, Array, Array, Array], FitState]
    score: Callable[[FitState, Array], Scores]
    capacity: int  # rows that `fit` expects
    # For features that are sums of rows of a table [r, x]: ``score_sums(state, table)(rows [n, k])`` is ``score`` of
    # ``table[rows].sum(1)``, the first layer applied to the table once instead of to every configuration.
    score_sums: Callable[[FitState, Array], Callable[[Array], Scores]] | None = None


class Net(nn.Module):
    """MLP in-hidden-2, or with ``shared=False`` one MLP in-hidden-1 for each task."""

    hidden: tuple[int, ...]
    shared: bool

    @property
    def trunks(self) -> int:
        """Separate MLPs."""
        return 1 if self.shared else TASKS

    def after_first_layer(self, weights: PyTree, inputs: list[Array]) -> Float[Array, "n 2"]:
        """Scores from the first layer's products ``[n, h]`` (no bias yet) of every trunk, and one member's weights."""
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
        """Scores of both tasks."""
        outputs = []
        for trunk in range(self.trunks):
            h = x
            for layer, width in enumerate(self.hidden):
                h = nn.relu(nn.Dense(width, name=f"trunk{trunk}_layer{layer}")(h))
            outputs.append(nn.Dense(TASKS if self.shared else 1, name=f"trunk{trunk}_head")(h))
        return jnp.concatenate(outputs, axis=-1)


class _Rows(NamedTuple):
    """Training rows with nothing undefined left in them."""

    features: Array  # [n, x], 0 where unused
    targets: Array  # [n, 2], finite
    where: Array  # bool [n, 2], the loss sees it
    finished: Array  # bool [n, 2], measured; what z-scores are taken over


def make_predictor(settings: PredictorConfig, num_features: int, capacity: int) -> Predictor:
    """The ensemble that the settings describe, over features ``[capacity, num_features]``."""
    return ensemble(num_features, capacity=capacity, **vars(settings))


def ensemble(
    num_features: int,
    *,
    capacity: int,
    members: int = 10,
    hidden: tuple[int, ...] = (50, 50),
    loss: str = "margin",
    loss_settings: dict[str, Any] | None = None,
    steps: int = 500,
    rate: float = 1e-3,
    weight_decay: float = 1e-4,
    multi_task: bool = True,
    bootstrap: bool = False,
    combine: str = "zscore",
    member_map: str = "map",
) -> Predictor:
    """The predictor of arXiv 2311.07870: MLPs fitted to all pairs of at most ``capacity`` rows.

    Args:
        num_features: ``x``.
        capacity: ``n`` of `fit`; unused rows are masked, so refitting with more rows is the same
            program.
        members: nets averaged.
        hidden: widths of the layers that both tasks share.
        loss: a name of `LOSSES`.
        loss_settings: what is not the default in that loss's settings.
        steps: full-batch Adam steps.
        rate: Adam's step size.
        weight_decay: decoupled (AdamW).
        multi_task: one net for both tasks; False trains one net for each.
        bootstrap: every member trains on its own resample of the rows.
        combine: "zscore", or "raw" for the outputs as they are (for mse and huber in the targets'
            units).
        member_map: "map" trains a few members at a time (CPU), "vmap" all at once (GPU).

    Raises:
        ValueError: an unknown name, or a size below 1.
    """
    traits, loss_fn = LOSSES[loss].traits, loss_of(loss, loss_settings or {})
    _require("predictor.combine", combine, ("zscore", "raw"))
    _require("predictor.member_map", member_map, ("map", "vmap"))
    for key, value in {
        "members": members,
        "capacity": capacity,
        "num_features": num_features,
    }.items():
        if value < 1:
            raise ValueError(f"predictor.{key}={value} must be at least 1")
    net = Net(tuple(hidden), multi_task)

    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, num_features)))

    def apply(params: PyTree, features: Array) -> Array:
        return cast(Array, net.apply(params, features))

    optimizer = optax.flatten(optax.adamw(rate, weight_decay=weight_decay))
    # On CPUs one by one: side by side their pairs leave the cache.
    chunk = members if member_map == "vmap" else None

    def objective(params: PyTree, rows: _Rows, weights: Array) -> Array:
        scores = apply(params, rows.features)
        return loss_fn(scores.T, rows.targets.T, where=rows.where.T, weights=weights)

    def train(key: Key, params: PyTree, rows: _Rows) -> tuple[PyTree, Array, Array]:
        used = rows.where.any(axis=1)
        counts = resample(key, used) if bootstrap else used.astype(jnp.float32)
        weights = jnp.tile(counts, (TASKS, 1))

        def step(carry: tuple[PyTree, Any], _: None) -> tuple[tuple[PyTree, Any], None]:
            params, state = carry
            grads = jax.grad(objective)(params, rows, weights)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)
        return params, apply(params, rows.features), objective(params, rows, weights)

    def fit(
        key: Key,
        features: Float[Array, "n x"],
        targets: Float[Array, "n 2"],
        where: Bool[Array, "n 2"],
    ) -> FitState:
        if features.shape != (capacity, num_features):
            raise ValueError(
                f"features are {features.shape}; this predictor fits ({capacity}, {num_features}): "
                f"pad with rows whose `where` is False"
            )
        rows = prepare(features, targets, where)
        target_mean, target_sd = _moments(rows.targets, rows.where)
        if traits["scaled"]:
            rows = rows._replace(targets=(rows.targets - target_mean) / target_sd)
        init_key, row_key = jax.random.split(key)
        start = jax.random.split(row_key, members), initial_params(init_key, shapes, members)
        params, outputs, final = jax.lax.map(
            lambda m: train(m[0], m[1], rows), start, batch_size=chunk
        )
        if combine == "zscore":
            mean, sd = jax.vmap(_moments, (0, None))(outputs, rows.finished)
        elif traits["regression"]:
            mean, sd = -target_mean / target_sd, 1 / target_sd
        else:
            mean, sd = jnp.zeros((1, TASKS)), jnp.ones((1, TASKS))
        shape = (members, TASKS)
        return FitState(
            params,
            jnp.broadcast_to(mean[..., 0, :], shape),
            jnp.broadcast_to(sd[..., 0, :], shape),
            final,
        )

    def combined(state: FitState, outputs: Float[Array, "e n 2"]) -> Scores:
        outputs = (outputs - state.mean[:, None, :]) / state.sd[:, None, :]
        return Scores(outputs.mean(axis=0), outputs.std(axis=0))

    def score(state: FitState, features: Float[Array, "n x"]) -> Scores:
        return combined(state, jax.vmap(apply, (0, None))(state.params, features))

    def score_sums(
        state: FitState, table: Float[Array, "r x"]
    ) -> Callable[[Int[Array, "n k"]], Scores]:
        weights = state.params["params"]
        firsts = [weights[f"trunk{t}_layer0"]["kernel"] for t in range(net.trunks)]
        projected = [jnp.einsum("rx,exh->erh", table, first) for first in firsts]

        def score_rows(rows: Int[Array, "n k"]) -> Scores:
            def add_up(part: Float[Array, "r h"]) -> Float[Array, "n h"]:
                # A chain of gathers, not a reduction over the gathered: that one XLA:CPU does not vectorise.
                own = [
                    part.at[rows[:, i]].get(mode="clip", wrap_negative_indices=False)
                    for i in range(rows.shape[1])
                ]
                return sum(own[1:], own[0])

            def member(projected_and_params: tuple[list[Array], PyTree]) -> Array:
                inputs = [add_up(part) for part in projected_and_params[0]]
                return net.after_first_layer(projected_and_params[1], inputs)

            every = (projected, weights)
            if member_map == "vmap":
                return combined(state, jax.vmap(member)(every))
            return combined(state, jax.lax.map(member, every))

        return score_rows

    return Predictor(fit, score, capacity, score_sums if hidden else None)


def initial_params(key: Key, shapes: PyTree, members: int) -> PyTree:
    """LeCun-uniform kernels and zero biases for all members, ``[e, ...]``, from one draw.

    One draw because each layer's own initialiser, mapped over members, took longer to compile on a
    CPU (5 s in all) than the whole fit takes to run.
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


def prepare(
    features: Float[Array, "n x"], targets: Float[Array, "n 2"], where: Bool[Array, "n 2"]
) -> _Rows:
    """Masks what is not there and puts failed trials one standard deviation beyond the worst.

    A cost that is not finite is left out; the cost of a failed trial counts if it is known.
    """
    finished = where & jnp.isfinite(targets)
    failed = where[:, 0] & ~finished[:, 0]
    targets = jnp.where(finished, targets, 0.0)
    _, sd = _moments(targets, finished)
    worst = jnp.max(targets[:, 0], where=finished[:, 0], initial=-jnp.inf)
    worst = jnp.where(jnp.isfinite(worst), worst, 0.0) + sd[0, 0]
    quality = jnp.where(failed, worst, targets[:, 0])
    known = jnp.stack([where[:, 0], finished[:, 1]], axis=1)
    return _Rows(
        jnp.where(where.any(axis=1, keepdims=True), features, 0.0),
        jnp.stack([quality, targets[:, 1]], axis=1),
        known,
        finished,
    )


def resample(key: Key, used: Bool[Array, " n"]) -> Float[Array, " n"]:
    """How often each used row is drawn when as many rows as are used are drawn with replacement."""
    n = used.shape[0]
    total = used.sum()
    draws = jnp.floor(jax.random.uniform(key, (n,)) * total).astype(jnp.int32)
    place = jnp.where(used, jnp.cumsum(used) - 1, -1)
    hits = (draws[None, :] == place[:, None]) & (jnp.arange(n) < total)[None, :]
    return hits.sum(axis=1).astype(jnp.float32)


def held_out_tau(
    predictor: Predictor,
    key: Key,
    features: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, "n 2"],
    where: Bool[np.ndarray, "n 2"] | None = None,
    *,
    folds: int = 5,
) -> dict[str, Any]:
    """Kendall's tau-b of the NE head on rows unseen by the fit (k-fold), and on rows it saw.

    Jits the predictor (one program for all folds); ``n`` is any number of rows up to the
    predictor's capacity.

    Returns: ``heldout_tau`` and ``train_tau`` (None where undefined) over finished rows,
        ``predicted`` and ``true``: lists of ``n`` out-of-fold predictions and targets of the NE
        gain, None where there is none (failed, not used).

    Raises:
        ValueError: more rows than the capacity, or fewer than two folds.
    """
    n = len(features)
    if n > predictor.capacity:
        raise ValueError(f"{n} rows do not fit predictor.capacity={predictor.capacity}; raise it")
    if folds < 2:
        raise ValueError(f"folds={folds}: write 2 or more")
    where = np.ones((n, TASKS), bool) if where is None else np.asarray(where, bool)
    pad = ((0, predictor.capacity - n), (0, 0))
    x = jnp.asarray(np.pad(np.asarray(features, np.float32), pad))
    y = jnp.asarray(np.pad(np.asarray(targets, np.float32), pad))
    seen = np.pad(where, pad)
    fit, score = jax.jit(predictor.fit), jax.jit(predictor.score)

    def predict(fold_key: Key, rows: np.ndarray) -> np.ndarray:
        return np.asarray(score(fit(fold_key, x, y, jnp.asarray(rows)), x).mean[:n, 0])

    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, folds), n))
    held_out = np.full(n, np.nan)
    for fold, rows in enumerate(np.array_split(order, folds)):
        if rows.size:
            rest = seen.copy()
            rest[rows] = False
            held_out[rows] = predict(jax.random.fold_in(key, fold), rest)[rows]
    fitted = predict(jax.random.fold_in(key, folds + 1), seen)
    true = np.asarray(targets, np.float64)[:, 0]
    known = where[:, 0] & np.isfinite(true)
    return {
        "heldout_tau": _or_none(kendall_tau_b(held_out[known], true[known])),
        "train_tau": _or_none(kendall_tau_b(fitted[known], true[known])),
        "predicted": [_or_none(v) if k else None for v, k in zip(held_out, known, strict=True)],
        "true": [_or_none(v) if k else None for v, k in zip(true, known, strict=True)],
    }


def _moments(
    values: Float[Array, "n 2"], where: Bool[Array, "n 2"]
) -> tuple[Float[Array, "1 2"], Float[Array, "1 2"]]:
    """Mean and standard deviation of each column over its rows; 0 and 1 where undefined."""
    count = jnp.maximum(where.sum(axis=0, keepdims=True), 1)
    mean = jnp.where(where, values, 0.0).sum(axis=0, keepdims=True) / count
    variance = jnp.where(where, (values - mean) ** 2, 0.0).sum(axis=0, keepdims=True) / count
    return mean, jnp.where(variance > 1e-12, jnp.sqrt(variance), 1.0)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _require(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{key}={value!r} is not known; write one of {', '.join(known)}")
