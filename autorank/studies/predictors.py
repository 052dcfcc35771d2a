"""The kinds of predictors that a study compares, behind one door.

A `Program` learns from some records and predicts the quality of others. It gives the predictions of its members
``[e, n]``, lower is better; an arm's prediction is the mean over the first of them. So arms that differ in the number
of members alone share one fit: members are drawn one by one, and the first ``e`` of a larger ensemble are those of an
ensemble of ``e`` (`tests/studies/test_predictors.py`).
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.programs import compiler_options, lower
from autorank.base.registry import Registry
from autorank.base.typing import Array, Float, Int, Key
from autorank.space.space import Space
from autorank.studies.inputs import encoder
from autorank.studies.simple_models import nearest_neighbours, ridge
from autorank.studies.trees import tree_predictions
from autorank.surrogates.base import Data
from autorank.surrogates.gaussian_surrogate import GaussianSettings, gaussian_surrogate


class Task(NamedTuple):
    """What a program is made for."""

    space: Space
    num_test: int


@runtime_checkable
class Program(Protocol):
    """Learns and predicts; threads may call it side by side."""

    def __call__(
        self, seed: int, known: np.ndarray, metrics: np.ndarray, asked: np.ndarray, /
    ) -> np.ndarray:
        """Predictions ``[e, n]`` for configurations ``asked``, from ``known`` ones with metrics ``[m, 2]``."""
        ...


@runtime_checkable
class Kind(Protocol):
    """Makes the program of an arm; whatever is compiled is compiled here."""

    def __call__(self, arm: Any, task: Task, /) -> Program:
        """The program of a `PredictorArm`."""
        ...


# Traits. `reads`: the fields of `PredictorArm` that not every kind reads, and this one does. `needs`: a package that is
# no dependency of the library, "" for none.
KINDS: Registry[Kind] = Registry("kind", field="kind")


@KINDS.register("ensemble", reads=("predictor", "input"), needs="")
def make_ensemble(arm: Any, task: Task) -> Program:
    """The paper's ensemble (`autorank.surrogates.predictor`)."""
    # Loads flax, which the others do not need.
    from autorank.surrogates.predictor import make_predictor

    encode = encoder(arm.input, task.space)
    predictor = make_predictor(arm.predictor, encode.num_features, arm.num_train)

    def learn(key: Key, known: Array, metrics: Array, asked: Array) -> Float[Array, "e n"]:
        where = jnp.ones(metrics.shape, bool)
        fitted = predictor.fit(key, encode(known), metrics, where)
        features = encode(asked)

        def alone(member: Any) -> Array:
            one = jax.tree.map(lambda leaf: leaf[None], member)
            return predictor.score(one, features).mean[:, 0]

        return jax.lax.map(alone, fitted)

    return _compiled(learn, arm.num_train, task)


@KINDS.register("gaussian", reads=(), needs="")
def make_gaussian(arm: Any, task: Task) -> Program:
    """The Gaussian process of the default searcher, with its default settings."""
    surrogate = gaussian_surrogate(task.space, GaussianSettings(), weighs_cost=False)

    def learn(key: Key, known: Array, metrics: Array, asked: Array) -> Float[Array, "1 n"]:
        data = Data(known, metrics, jnp.ones(metrics.shape, bool))
        return surrogate.predict(surrogate.fit(key, data), asked).mean[None, :, 0]

    return _compiled(learn, arm.num_train, task)


@KINDS.register("ridge", reads=("input",), needs="")
def make_ridge(arm: Any, task: Task) -> Program:
    """Ridge regression on the inputs; its penalty has the least leave-one-out error."""

    def program(
        seed: int, known: np.ndarray, metrics: np.ndarray, asked: np.ndarray
    ) -> Float[np.ndarray, "1 n"]:
        return ridge(*_inputs(arm, task, known, asked), metrics[:, 0])[None]

    return program


@KINDS.register("neighbours", reads=("neighbours", "input"), needs="")
def make_neighbours(arm: Any, task: Task) -> Program:
    """The mean of the nearest records in the inputs."""

    def program(
        seed: int, known: np.ndarray, metrics: np.ndarray, asked: np.ndarray
    ) -> Float[np.ndarray, "1 n"]:
        inputs = _inputs(arm, task, known, asked)
        return nearest_neighbours(*inputs, metrics[:, 0], arm.neighbours)[None]

    return program


@KINDS.register("trees", reads=("input",), needs="sklearn")
def make_trees(arm: Any, task: Task) -> Program:
    """Boosted regression trees (scikit-learn)."""
    return _of_trees("trees", arm, task)


@KINDS.register("extra_trees", reads=("input",), needs="sklearn")
def make_extra_trees(arm: Any, task: Task) -> Program:
    """Extremely randomised regression trees (scikit-learn)."""
    return _of_trees("extra_trees", arm, task)


def _of_trees(kind: str, arm: Any, task: Task) -> Program:
    def program(
        seed: int, known: np.ndarray, metrics: np.ndarray, asked: np.ndarray
    ) -> Float[np.ndarray, "1 n"]:
        inputs = _inputs(arm, task, known, asked)
        return tree_predictions(kind, *inputs, metrics[:, 0], seed)[None]

    return program


@KINDS.register("mean", reads=(), needs="")
def make_mean(arm: Any, task: Task) -> Program:
    """The mean of the records for everything, as if nothing were learnt; ties count at their worst in its regret."""

    def program(
        seed: int, known: np.ndarray, metrics: np.ndarray, asked: np.ndarray
    ) -> Float[np.ndarray, "1 n"]:
        return np.full((1, len(asked)), metrics[:, 0].mean(dtype=np.float64))

    return program


def _compiled(learn: Any, num_train: int, task: Task) -> Program:
    k = task.space.num_decisions

    def shape(rows: int, columns: int, kind: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, columns), kind)

    made = lower(
        learn,
        jax.random.key(0),
        shape(num_train, k, jnp.int32),
        shape(num_train, 2, jnp.float32),
        shape(task.num_test, k, jnp.int32),
    ).compile(compiler_options=compiler_options())

    def program(
        seed: int, known: np.ndarray, metrics: np.ndarray, asked: np.ndarray
    ) -> Float[np.ndarray, "e n"]:
        arrays = (jnp.asarray(known), jnp.asarray(metrics), jnp.asarray(asked))
        return np.asarray(made(jax.random.key(seed), *arrays), np.float64)

    return program


def _inputs(
    arm: Any, task: Task, known: Int[np.ndarray, "m k"], asked: Int[np.ndarray, "n k"]
) -> tuple[np.ndarray, np.ndarray]:
    encode = encoder(arm.input, task.space)
    return np.asarray(encode(known), np.float64), np.asarray(encode(asked), np.float64)
