"""The ensemble that stands in for training: features of a configuration in, NE gain and log FLOPs out.

Lower is better for both. The members are small MLPs that share all but their last layer between the two tasks. They
differ by seed, and by resample if asked for. A ranking loss leaves the scale of a member free, so each member's output
is z-scored for each task over the finished training configurations before members are averaged ("raw" leaves it as it
is). Source: arXiv 2311.07870; Adam's settings, the z-score and the treatment of failed trials are our choice.

A failed trial (target 0 is NaN inside ``where``) must become less likely: it counts as worse than every finished one,
by one standard deviation (`training_rows`). For a ranking loss only the order matters, and failed trials tie.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from autorank.base.records import require
from autorank.base.typing import Array, Bool, Float, Int, Key, PyTree
from autorank.surrogates.base import Prediction
from autorank.surrogates.losses import LOSSES, Loss
from autorank.surrogates.nets import TASKS, Net, initial_params
from autorank.surrogates.settings import PredictorConfig, loss_of
from autorank.surrogates.training_rows import TrainingRows, moments, prepare, resample


class FitState(NamedTuple):
    """A fitted ensemble of ``e`` members."""

    params: PyTree  # [e, ...]
    mean: Array  # float32 [e, 2]: subtracted from the member's output ...
    sd: Array  # float32 [e, 2]: ... which is then divided by this
    loss: Array  # float32 [e]: training loss after the last step


@runtime_checkable
class Fit(Protocol):
    """Fits a predictor."""

    def __call__(self, key: Key, features: Array, targets: Array, where: Array, /) -> Any:
        """A pytree of arrays, from features ``[n, x]``, targets ``[n, 2]`` and bool ``[n, 2]``; ``n`` is the capacity.

        Rows and numbers outside ``where`` do not count. A target 0 of NaN is a failed trial.
        """
        ...


@runtime_checkable
class Score(Protocol):
    """Scores configurations with a fitted predictor."""

    def __call__(self, fitted: Any, features: Array, /) -> Prediction:
        """Mean and standard deviation over members at features ``[n, x]``."""
        ...


@runtime_checkable
class Project(Protocol):
    """Applies the first layer to a table of features."""

    def __call__(self, fitted: Any, table: Array, /) -> Any:
        """A pytree of arrays, from a table ``[r, x]``."""
        ...


@runtime_checkable
class ScoreRows(Protocol):
    """Scores features that are sums of rows of the table."""

    def __call__(self, fitted: Any, projected: Any, rows: Array, /) -> Prediction:
        """What `Score` gives for ``table[rows].sum(1)``, ``rows`` being int ``[n, k]``."""
        ...


class SumScore(NamedTuple):
    """Scores sums of rows of a table, with the first layer applied once to the table instead of to every sum."""

    project: Project
    score: ScoreRows


class Predictor(NamedTuple):
    """Fits and scores features; the functions are pure and jitted by the caller."""

    fit: Fit
    score: Score
    capacity: int  # rows that `fit` expects
    by_sums: SumScore | None = None  # None if the predictor has no such shortcut


def refuse_other_shape(features: Array, shape: tuple[int, int]) -> None:
    """Refuses features that are not of the shape that a predictor fits.

    Raises:
        ValueError: they are not.
    """
    if features.shape != shape:
        raise ValueError(
            f"features are {features.shape}; this predictor fits {shape}: pad with rows whose `where` is False"
        )


def ensemble(
    num_features: int, *, capacity: int, member_map: str = "map", **settings: Any
) -> Predictor:
    """`make_predictor` with the fields of `PredictorConfig` as keywords.

    Raises:
        ValueError: an unknown name, or a size below 1.

    Examples:
        >>> predictor = ensemble(1, capacity=4, members=2, hidden=(4,), steps=1)
        >>> features = jnp.array([[0.0], [0.5], [1.0], [0.0]])
        >>> where = jnp.array([[True] * 2] * 3 + [[False] * 2])
        >>> fitted = predictor.fit(jax.random.key(0), features, jnp.zeros((4, 2)), where)
        >>> predictor.score(fitted, features[:3]).mean.shape
        (3, 2)
    """
    return make_predictor(PredictorConfig(**settings), num_features, capacity, member_map)


def make_predictor(
    settings: PredictorConfig, num_features: int, capacity: int, member_map: str = "map"
) -> Predictor:
    """The predictor of arXiv 2311.07870: MLPs that are fitted to all pairs of at most ``capacity`` rows.

    Args:
        settings: settings of the ensemble and its loss.
        num_features: number of features, ``x``.
        capacity: ``n`` of ``fit``; unused rows are masked, so that more rows need no new program.
        member_map: "map" trains one member after another (CPU), "vmap" all at once (GPU).

    Raises:
        ValueError: an unknown ``member_map``, or a size below 1.
    """
    s, traits = settings, LOSSES[settings.loss].traits
    require("predictor.member_map", member_map, ("map", "vmap"))
    made = _Ensemble(
        num_features=num_features,
        capacity=capacity,
        members=s.members,
        net=Net(s.hidden, s.multi_task),
        loss=loss_of(s.loss, s.loss_settings),
        is_scaled=traits["scaled"],
        is_regression=traits["regression"],
        steps=s.steps,
        # One flat vector: one fused update instead of one for each array.
        optimizer=optax.flatten(optax.adamw(s.rate, weight_decay=s.weight_decay)),
        bootstrap=s.bootstrap,
        zscore=s.combine == "zscore",
        at_once=member_map == "vmap",
    )
    by_sums = SumScore(made.project, made.score_rows) if s.hidden else None
    return Predictor(made.fit, made.score, capacity, by_sums)


@dataclass(frozen=True)
class _Ensemble:
    """The functions of a `Predictor`, over its settings."""

    num_features: int
    capacity: int
    members: int
    net: Net
    loss: Loss
    is_scaled: bool  # the loss wants standardised targets
    is_regression: bool  # scores estimate the standardised targets
    steps: int
    optimizer: optax.GradientTransformation
    bootstrap: bool
    zscore: bool
    at_once: bool  # members side by side; on CPUs their pairs would leave the cache

    def __post_init__(self):
        for key in ("members", "capacity", "num_features"):
            if getattr(self, key) < 1:
                raise ValueError(f"predictor.{key}={getattr(self, key)} must be at least 1")

    def fit(
        self,
        key: Key,
        features: Float[Array, "n x"],
        targets: Float[Array, "n 2"],
        where: Bool[Array, "n 2"],
    ) -> FitState:
        """`Predictor.fit`."""
        refuse_other_shape(features, (self.capacity, self.num_features))
        rows = prepare(features, targets, where)
        target_mean, target_sd = moments(rows.targets, rows.where)
        if self.is_scaled:
            rows = rows._replace(targets=(rows.targets - target_mean) / target_sd)
        init_key, row_key = jax.random.split(key)
        shapes = jax.eval_shape(self.net.init, jax.random.key(0), jnp.zeros((1, self.num_features)))
        params = initial_params(init_key, shapes, self.members)
        start = jax.random.split(row_key, self.members), params
        params, outputs, final = jax.lax.map(
            lambda m: self._train(m[0], m[1], rows),
            start,
            batch_size=self.members if self.at_once else None,
        )
        if self.zscore:
            mean, sd = jax.vmap(moments, (0, None))(outputs, rows.finished)
        elif self.is_regression:
            mean, sd = -target_mean / target_sd, 1 / target_sd
        else:
            mean, sd = jnp.zeros((1, TASKS)), jnp.ones((1, TASKS))
        shape = (self.members, TASKS)
        return FitState(
            params,
            jnp.broadcast_to(mean[..., 0, :], shape),
            jnp.broadcast_to(sd[..., 0, :], shape),
            final,
        )

    def score(self, state: FitState, features: Float[Array, "n x"]) -> Prediction:
        """`Predictor.score`."""
        return _combined(state, jax.vmap(self._apply, (0, None))(state.params, features))

    def project(self, state: FitState, table: Float[Array, "r x"]) -> list[Float[Array, "e r h"]]:
        """`SumScore.project`: the products of the table with the first layer of each trunk."""
        weights = state.params["params"]
        firsts = [weights[f"trunk{t}_layer0"]["kernel"] for t in range(self.net.trunks)]
        return [jnp.einsum("rx,exh->erh", table, first) for first in firsts]

    def score_rows(
        self, state: FitState, projected: list[Float[Array, "e r h"]], rows: Int[Array, "n k"]
    ) -> Prediction:
        """`SumScore.score`."""

        def add_up(part: Float[Array, "r h"]) -> Float[Array, "n h"]:
            # A chain of gathers, because XLA on a CPU does not vectorise a reduction over gathered rows.
            own = [
                part.at[rows[:, i]].get(mode="clip", wrap_negative_indices=False)
                for i in range(rows.shape[1])
            ]
            return sum(own[1:], own[0])

        def member(projected_and_params: tuple[list[Array], PyTree]) -> Array:
            inputs = [add_up(part) for part in projected_and_params[0]]
            return self.net.after_first_layer(projected_and_params[1], inputs)

        every = (projected, state.params["params"])
        outputs = jax.vmap(member)(every) if self.at_once else jax.lax.map(member, every)
        return _combined(state, outputs)

    def _apply(self, params: PyTree, features: Float[Array, "n x"]) -> Float[Array, "n 2"]:
        return cast(Array, self.net.apply(params, features))

    def _objective(self, params: PyTree, rows: TrainingRows, weights: Array) -> Array:
        scores = self._apply(params, rows.features)
        return self.loss(scores.T, rows.targets.T, where=rows.where.T, weights=weights)

    def _train(
        self, key: Key, params: PyTree, rows: TrainingRows
    ) -> tuple[PyTree, Float[Array, "n 2"], Array]:
        """Trains one member; its parameters, its outputs on the rows, and its final loss."""
        used = rows.where.any(axis=1)
        counts = resample(key, used) if self.bootstrap else used.astype(jnp.float32)
        weights = jnp.tile(counts, (TASKS, 1))

        def step(carry: tuple[PyTree, Any], _: None) -> tuple[tuple[PyTree, Any], None]:
            params, state = carry
            grads = jax.grad(self._objective)(params, rows, weights)
            updates, state = self.optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = (params, self.optimizer.init(params))
        (params, _), _ = jax.lax.scan(step, start, None, length=self.steps)
        return params, self._apply(params, rows.features), self._objective(params, rows, weights)


def _combined(state: FitState, outputs: Float[Array, "e n 2"]) -> Prediction:
    """Mean and standard deviation over members of their scaled outputs."""
    outputs = (outputs - state.mean[:, None, :]) / state.sd[:, None, :]
    return Prediction(outputs.mean(axis=0), outputs.std(axis=0))
