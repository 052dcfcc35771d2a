"""How a configuration becomes the numbers that a predictor sees.

Every input here is a sum over decisions of one row of a table for each choice, as the features of
`autorank.space.space.Space` are; a decision that is not active has a row of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from autorank.base.records import require
from autorank.base.typing import Array, Float, Int
from autorank.space.decision import Decision
from autorank.space.grammar import scaled
from autorank.space.space import Space

CENTRES = 7  # bumps of the smooth basis, evenly spaced over [0, 1]; their width is one spacing
NUMBERS = ("float", "one_hot", "square", "basis")


@dataclass(frozen=True)
class InputConfig:
    """Settings of the input; the defaults are the features of the space."""

    number: str = "float"  # one of `NUMBERS`; each reads the number scaled to [0, 1]
    centred: bool = False  # every column has the mean 0 over its decision's choices
    # A decision without a meaning is all zeros, or has a column that says whether it has one.
    conditional: str = "zeros"  # zeros, flag

    def __post_init__(self):
        require("input.number", self.number, NUMBERS)
        require("input.conditional", self.conditional, ("zeros", "flag"))


class Encoder(NamedTuple):
    """Turns configurations into inputs; works inside ``jit``."""

    space: Space
    rows: (
        np.ndarray
    )  # float32 [k * (c + 1), x]: of each choice; the last of a decision is that of being inactive

    @property
    def num_features(self) -> int:
        """``x``."""
        return self.rows.shape[1]

    def __call__(self, configs: Int[Array | np.ndarray, "n k"]) -> Float[Array, "n x"]:
        """Inputs of canonical configurations."""
        per_decision = self.space.max_choices + 1
        first = jnp.arange(self.space.num_decisions, dtype=jnp.int32)[None] * per_decision
        chosen = jnp.where(self.space.active(configs), jnp.asarray(configs), per_decision - 1)
        return jnp.asarray(self.rows)[first + chosen].sum(axis=1)


def encoder(settings: InputConfig, space: Space) -> Encoder:
    """The encoder of a space.

    Examples:
        >>> space = Space((Decision("depth", (1, 2, 3), "number"),), baseline=(0,))
        >>> encoder(InputConfig(number="square"), space)(np.array([[1]])).tolist()
        [[0.5, 0.25]]
    """
    blocks = [_block(decision, settings) for decision in space.decisions]
    width = sum(block.shape[1] for block in blocks)
    table = np.zeros((space.num_decisions, space.max_choices + 1, width), np.float32)
    start = 0
    for i, block in enumerate(blocks):
        end = start + block.shape[1]
        table[i, : len(block) - 1, start:end] = block[:-1]
        table[i, -1, start:end] = block[-1]
        start = end
    return Encoder(space, table.reshape(-1, width))


def _block(decision: Decision, settings: InputConfig) -> Float[np.ndarray, "c x"]:
    """The rows of one decision's choices, and last that of being inactive."""
    if decision.kind == "number":
        block = _number(np.asarray(scaled(decision.choices, decision.log)), settings.number)
    else:
        block = np.eye(len(decision.choices))
    if settings.centred:
        block = block - block.mean(axis=0)
    block = np.concatenate([block, np.zeros((1, block.shape[1]))])
    if settings.conditional == "flag" and decision.parents:
        is_active = np.r_[np.ones(len(block) - 1), 0.0]
        block = np.column_stack([block, is_active])
    return block


def _number(values: Sequence[float] | np.ndarray, kind: str) -> Float[np.ndarray, "c x"]:
    x = np.asarray(values, float)[:, None]
    if kind == "one_hot":
        return np.eye(len(x))
    if kind == "square":
        return np.concatenate([x, x**2], axis=1)
    if kind == "basis":
        centres = np.linspace(0.0, 1.0, CENTRES)[None]
        return np.exp(-(((x - centres) * (CENTRES - 1)) ** 2) / 2)
    return x
