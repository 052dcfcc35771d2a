"""The search space: named decisions with finite choices, conditions, and a baseline inside.

A configuration is an int32 vector of ``k`` choice indices. In *canonical* form every inactive
decision holds the baseline's choice, so that equal models are equal vectors.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.space import arrays, counting
from autorank.space.checks import check_configs, check_decisions
from autorank.space.decision import Decision, index_of
from autorank.space.tables import Tables, feature_rows, tables_of

__all__ = ["Decision", "Space"]


@dataclass(frozen=True, eq=False)
class Space:
    """Decisions and a baseline; hashable and equal by content.

    The array methods run inside ``jit``; `arrays` and `counting` hold the work.

    Examples:
        >>> depth = Decision("depth", (1, 2, 4), kind="number")
        >>> width = Decision("width", (8, 16), parents=(("depth", (2, 4)),))
        >>> space = Space((depth, width), baseline=(1, 0))
        >>> space.cardinality()  # the width has no meaning at depth 1
        5
        >>> space.canonical(np.array([[0, 1], [2, 1]])).tolist()
        [[0, 0], [2, 1]]
        >>> space.decode(np.array([2, 1]))
        {'depth': 4, 'width': 16}

    Raises:
        ValueError: repeated names, empty or repeated choices, unknown parents or values, cyclic
            conditions, a baseline out of range: each named.
    """

    decisions: tuple[Decision, ...]
    baseline: tuple[int, ...]

    def __post_init__(self):
        check_decisions(self.decisions, self.baseline)
        _ = self.tables  # refuses cycles

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def fingerprint(self) -> str:
        """sha256 over decisions and baseline."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        text = json.dumps([[list(d) for d in self.decisions], self.baseline])
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def tables(self) -> Tables:
        """The static tables that the array methods read."""
        return tables_of(self.decisions, self.baseline)

    @cached_property
    def feature_rows(self) -> np.ndarray:
        """What each choice adds to ``features``: see `tables.feature_rows`."""
        return feature_rows(self.tables)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_decisions(self) -> int:
        """``k``."""
        return len(self.decisions)

    @property
    def max_choices(self) -> int:
        """``c``."""
        return self.tables.max_choices

    @property
    def num_choices(self) -> np.ndarray:
        """int32 ``[k]``."""
        return self.tables.num_choices

    @property
    def num_features(self) -> int:
        """Columns of ``features``."""
        return len(self.tables.feature_decision)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Config keys, in order."""
        return tuple(d.name for d in self.decisions)

    # --- many configurations ---------------------------------------------------------------------

    def active(self, configs: Int[Array | np.ndarray, "n k"]) -> Bool[Array, "n k"]:
        """Which decisions have a meaning."""
        return arrays.active(jnp, self.tables, jnp.asarray(configs))

    def canonical(self, configs: Int[Array | np.ndarray, "n k"]) -> Int[Array, "n k"]:
        """Inactive decisions set to the baseline's choice."""
        return arrays.canonical(self.tables, configs)

    def sample(self, key: Key, n: int) -> Int[Array, "n k"]:
        """Each decision uniform, then canonical (so not uniform over configurations)."""
        return arrays.sample(self.tables, key, n)

    def mutate(
        self, key: Key, configs: Int[Array | np.ndarray, "n k"], rate: float | Float[Array, ""]
    ) -> Int[Array, "n k"]:
        """Changes each active decision with probability ``rate``, and at least one; canonical."""
        return arrays.mutate(self.tables, key, configs, rate)

    def features(self, configs: Int[Array | np.ndarray, "n k"]) -> Float[Array, "n x"]:
        """One-hot for categorical, one scaled float for numbers, 0 where inactive."""
        return arrays.features(self.tables, configs)

    def cardinality(self) -> int:
        """Number of distinct canonical configurations, exact."""
        return counting.cardinality(self.tables)

    def enumerate(self, limit: int) -> np.ndarray:
        """The first ``min(limit, cardinality)`` canonical configurations, int32 ``[n, k]``."""
        return counting.first_configurations(self.tables, limit)

    # --- values of one configuration -------------------------------------------------------------

    def decode(self, config: Any, *, inactive: bool = False) -> dict[str, Any]:
        """Config keys and values of one configuration ``[k]``: the active decisions, or all."""
        config = np.asarray(config)
        self.validate(config[None])
        on = arrays.active(np, self.tables, config[None])[0]
        return {
            d.name: d.choices[c]
            for d, c, is_on in zip(self.decisions, config.tolist(), on, strict=True)
            if is_on or inactive
        }

    def encode(self, values: Mapping[str, Any]) -> np.ndarray:
        """int32 ``[k]``, canonical; missing keys take the baseline's choice.

        Raises:
            ValueError: an unknown key or a value that is no choice.
        """
        config = self.tables.baseline.copy()
        for key, value in values.items():
            if key not in self.names:
                raise ValueError(f"{key} is not in the space; known keys: {', '.join(self.names)}")
            i = self.names.index(key)
            config[i] = index_of(key, self.decisions[i].choices, value)
        on = arrays.active(np, self.tables, config[None])[0]
        return np.where(on, config, self.tables.baseline)

    def validate(self, configs: Any) -> None:
        """Refuses anything but canonical configurations, int ``[n, k]``.

        Raises:
            ValueError: naming row, decision and value.
        """
        check_configs(self.names, self.tables, configs)
