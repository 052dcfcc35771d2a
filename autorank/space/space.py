"""The search space: named decisions with finite choices, conditions, and a baseline inside.

A configuration is an int32 vector of ``k`` choice indices. In *canonical* form every inactive
decision holds the baseline's choice, so that equal models are equal vectors. All array functions
run inside ``jit`` and ``scan``.
"""

import fnmatch
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.space.grammar import Domain, find, read, scaled, snap


class Decision(NamedTuple):
    """One knob.

    ``parents`` are pairs (parent's name, its values); the decision is active if any pair holds and
    that parent is itself active, and always if there are none. Numbers are scaled to [0, 1], by
    their logarithm with ``log``.
    """

    name: str
    choices: tuple[Any, ...]
    kind: str = "categorical"  # or "number"
    log: bool = False
    parents: tuple[tuple[str, tuple[Any, ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class Space:
    """Static data plus vectorised functions; hashable, equal by content.

    Raises:
        ValueError: repeated names, empty or repeated choices, unknown parents or values, cyclic
            conditions, a baseline out of range: each named.
    """

    decisions: tuple[Decision, ...]
    baseline: tuple[int, ...]

    def __post_init__(self):
        _check(self.decisions, self.baseline)
        _ = self._order  # refuses cycles

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

    # Sizes.

    @property
    def num_decisions(self) -> int:
        """``k``."""
        return len(self.decisions)

    @cached_property
    def max_choices(self) -> int:
        """``c``."""
        return max(len(d.choices) for d in self.decisions)

    @cached_property
    def num_choices(self) -> np.ndarray:
        """int32 ``[k]``."""
        return np.array([len(d.choices) for d in self.decisions], np.int32)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Config keys, in order."""
        return tuple(d.name for d in self.decisions)

    @property
    def num_features(self) -> int:
        """Columns of ``features``."""
        return len(self._features[0])

    # Static tables behind the array functions.

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """Decisions with parents first."""
        parents = {d.name: {p for p, _ in d.parents} for d in self.decisions}
        order: list[int] = []
        while len(order) < len(self.decisions):
            placed = {self.decisions[i].name for i in order}
            ready = [
                i
                for i, d in enumerate(self.decisions)
                if d.name not in placed and parents[d.name] <= placed
            ]
            if not ready:
                left = [n for n in parents if n not in placed]
                raise ValueError(
                    f"conditions among {', '.join(left)} form a cycle; drop one of them"
                )
            order += ready
        return tuple(order)

    @cached_property
    def _depth(self) -> int:
        """Longest chain of conditions: passes that decide what is active."""
        depth: dict[str, int] = {}
        for i in self._order:
            d = self.decisions[i]
            depth[d.name] = max((depth[p] + 1 for p, _ in d.parents), default=0)
        return max(depth.values())

    @cached_property
    def _roots(self) -> np.ndarray:
        return np.array([not d.parents for d in self.decisions])

    @cached_property
    def _activates(self) -> np.ndarray:
        """float32 ``[k * c, k]``: 1 where a parent's choice (row) activates a child (column)."""
        table = np.zeros((self.num_decisions, self.max_choices, self.num_decisions), np.float32)
        for child, decision in enumerate(self.decisions):
            for name, values in decision.parents:
                parent = self.names.index(name)
                for value in values:
                    table[parent, find(self.decisions[parent].choices, value), child] = 1.0
        return table.reshape(-1, self.num_decisions)

    @cached_property
    def _features(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per feature its decision and its choice (-1 = number), and scaled numbers ``[k, c]``."""
        columns: list[tuple[int, int]] = []
        numbers = np.zeros((self.num_decisions, self.max_choices), np.float32)
        for i, d in enumerate(self.decisions):
            if d.kind == "number":
                numbers[i, : len(d.choices)] = scaled(d.choices, d.log)
                columns.append((i, -1))
            else:
                columns += [(i, j) for j in range(len(d.choices))]
        pairs = np.array(columns, np.int32)
        return pairs[:, 0], pairs[:, 1], numbers

    @cached_property
    def feature_rows(self) -> np.ndarray:
        """float32 ``[k * c + 1, x]``: what choice ``c`` of decision ``k`` adds to ``features``; the last row is zero.

        ``features`` of a configuration is the sum of its active decisions' rows.
        """
        decision, choice, numbers = self._features
        rows = np.zeros((self.num_decisions * self.max_choices + 1, len(decision)), np.float32)
        for column, (i, j) in enumerate(zip(decision.tolist(), choice.tolist(), strict=True)):
            first = i * self.max_choices
            if j < 0:
                rows[first : first + self.max_choices, column] = numbers[i]
            else:
                rows[first + j, column] = 1.0
        return rows

    # Arrays.

    def active(self, configs: Int[Array | np.ndarray, "n k"]) -> Bool[Array, "n k"]:
        """Which decisions have a meaning."""
        return _active(jnp, self, jnp.asarray(configs))

    def canonical(self, configs: Int[Array | np.ndarray, "n k"]) -> Int[Array, "n k"]:
        """Inactive decisions set to the baseline's choice."""
        configs = jnp.asarray(configs, jnp.int32)
        baseline = jnp.array(self.baseline, jnp.int32)[None, :]
        return jnp.where(self.active(configs), configs, baseline)

    def sample(self, key: Key, n: int) -> Int[Array, "n k"]:
        """Each decision uniform, then canonical (so not uniform over configurations)."""
        return self.canonical(
            _scale(jax.random.uniform(key, (n, self.num_decisions)), self.num_choices)
        )

    def mutate(
        self,
        key: Key,
        configs: Int[Array | np.ndarray, "n k"],
        rate: float | Float[Array, ""],
    ) -> Int[Array, "n k"]:
        """Changes each active decision with probability ``rate``, and at least one; canonical.

        What becomes active by a change is drawn anew. A configuration whose active decisions have
        one choice each stays as it is.
        """
        configs = jnp.asarray(configs, jnp.int32)
        n, k = configs.shape
        coin, pick, shift, new = jax.random.uniform(key, (4, n, k))
        sizes = self.num_choices
        active = self.active(configs)
        free = active & jnp.asarray(sizes > 1)[None, :]
        forced = jnp.argmax(jnp.where(free, pick, -1.0), axis=1)
        change = free & ((coin < rate) | jax.nn.one_hot(forced, k, dtype=bool))
        changed = (configs + 1 + _scale(shift, np.maximum(sizes - 1, 1))) % jnp.asarray(sizes)[
            None, :
        ]
        inactive = jnp.where(active, configs, _scale(new, sizes))
        return self.canonical(jnp.where(change, changed, inactive))

    def features(self, configs: Int[Array | np.ndarray, "n k"]) -> Float[Array, "n x"]:
        """One-hot for categorical, one scaled float for numbers, 0 where inactive."""
        configs = jnp.asarray(configs, jnp.int32)
        decision, choice, numbers = self._features
        own = configs[:, decision]  # [n, x]
        flat = jnp.asarray(numbers.reshape(-1))
        values = flat[jnp.asarray(decision * self.max_choices)[None, :] + own]
        hot = (own == jnp.asarray(choice)[None, :]).astype(jnp.float32)
        number = jnp.asarray(choice < 0)[None, :]
        return jnp.where(self.active(configs)[:, decision], jnp.where(number, values, hot), 0.0)

    # Host side.

    def decode(self, config: Any, *, inactive: bool = False) -> dict[str, Any]:
        """Config keys and values of one configuration ``[k]``, the active ones or all."""
        config = np.asarray(config)
        self.validate(config[None])
        active = _active(np, self, config[None])[0]
        return {
            d.name: d.choices[c]
            for d, c, on in zip(self.decisions, config.tolist(), active, strict=True)
            if on or inactive
        }

    def encode(self, values: Mapping[str, Any]) -> np.ndarray:
        """int32 ``[k]``, canonical; keys that are missing take the baseline's choice.

        Raises:
            ValueError: an unknown key or a value that is no choice.
        """
        config = np.array(self.baseline, np.int32)
        for key, value in values.items():
            if key not in self.names:
                raise ValueError(f"{key} is not in the space; known keys: {', '.join(self.names)}")
            i = self.names.index(key)
            config[i] = _index(key, self.decisions[i].choices, value)
        active = _active(np, self, config[None])[0]
        return np.where(active, config, np.array(self.baseline, np.int32))

    def validate(self, configs: Any) -> None:
        """Refuses what is not a canonical configuration, naming row, decision and value.

        Raises:
            ValueError: as above.
        """
        configs = np.asarray(configs)
        if configs.ndim != 2 or configs.shape[1] != self.num_decisions:
            raise ValueError(
                f"configurations have shape {configs.shape}, expected (n, {self.num_decisions})"
            )
        if not np.issubdtype(configs.dtype, np.integer):
            raise ValueError(f"configurations are {configs.dtype}, expected choice indices (int32)")
        outside = (configs < 0) | (configs >= self.num_choices)
        for row, i in np.argwhere(outside)[:1]:
            raise ValueError(
                f"row {row}: {self.names[i]} has choice index {configs[row, i]}, "
                f"expected 0 to {self.num_choices[i] - 1}"
            )
        stale = ~_active(np, self, configs) & (configs != np.array(self.baseline))
        for row, i in np.argwhere(stale)[:1]:
            raise ValueError(
                f"row {row}: {self.names[i]} is inactive but has choice index {configs[row, i]}; "
                f"write the baseline's, {self.baseline[i]} (Space.canonical does)"
            )

    def cardinality(self) -> int:
        """Number of distinct canonical configurations, exact.

        Goes through the decisions, parents first, and keeps for every set of decisions that are
        activated but not yet reached how many partial configurations lead to it: as many states as
        conditions can tell apart, not as many as configurations.
        """
        counts = {0: 1}  # activated decisions as bits -> partial configurations
        children = self._activates.reshape(self.num_decisions, self.max_choices, self.num_decisions)
        for i in self._order:
            masks = [
                sum(1 << int(j) for j in np.flatnonzero(children[i, choice]))
                for choice in range(len(self.decisions[i].choices))
            ]
            after: dict[int, int] = {}
            for state, count in counts.items():
                rest = state & ~(1 << i)
                for mask in masks if self._roots[i] or state >> i & 1 else [0]:
                    after[rest | mask] = after.get(rest | mask, 0) + count
            counts = after
        return sum(counts.values())

    def enumerate(self, limit: int) -> np.ndarray:
        """The first ``min(limit, cardinality)`` canonical configurations, int32 ``[n, k]``."""
        rows = [row for row, _ in zip(_walk(self), range(limit), strict=False)]
        return np.array(rows, np.int32).reshape(-1, self.num_decisions)


def parse_space(
    decisions: Mapping[str, str | Domain],
    conditions: Mapping[str, Mapping[str, Sequence[Any]]],
    baseline: Mapping[str, Any],
    *,
    grid_size: int,
) -> Space:
    """A space from text: Hydra's sweep grammar per key, conditions by globs, a value for every key.

    Args:
        decisions: key -> ``choice(...)``, ``range(...)`` or ``interval(...)``, tagged or not
            (``autorank.space.space.grammar``), or a domain read already.
        conditions: key glob -> {parent glob: values}; a decision under several of them is active if
            any holds.
        baseline: key -> value; inside an interval the nearest grid point stands for it.
        grid_size: points of an interval, at least 2.

    Raises:
        ValueError: anything that cannot be meant, with the key, the value and what to write
            instead.
    """
    if not decisions:
        raise ValueError(
            "the space has no decisions; write at least one, for example a.b: choice(1,2)"
        )
    if grid_size < 2:
        raise ValueError(
            f"grid_size={grid_size} cannot hold an interval's two ends; write 2 or more"
        )
    domains = {
        key: text if isinstance(text, Domain) else read(key, text, grid_size)
        for key, text in decisions.items()
    }
    parents: dict[str, list[tuple[str, tuple[Any, ...]]]] = {key: [] for key in domains}
    for child_glob, wanted in conditions.items():
        for child in _matches(f"conditions.{child_glob}", child_glob, domains):
            for parent_glob, values in wanted.items():
                where = f"conditions.{child_glob}.{parent_glob}"
                for parent in _matches(where, parent_glob, domains):
                    choices = domains[parent].choices
                    known = tuple(
                        choices[_index(f"{where} ({parent})", choices, v)] for v in values
                    )
                    parents[child].append((parent, known))
    for key in baseline:
        if key not in domains:
            raise ValueError(
                f"baseline.{key} is not among the decisions; drop it or add the decision"
            )
    found = tuple(
        Decision(key, d.choices, d.kind, d.log, tuple(parents[key])) for key, d in domains.items()
    )
    for key, domain in domains.items():
        if key not in baseline:
            raise ValueError(f"baseline.{key} is missing; write one of {_listed(domain.choices)}")
    indices = (_baseline_index(key, domain, baseline[key]) for key, domain in domains.items())
    return Space(found, tuple(indices))


def _active(xp: Any, space: Space, configs: Any) -> Any:
    """Activity in numpy or jax.numpy: one product per level of conditions, roots first."""
    n, k = configs.shape
    roots = xp.asarray(space._roots)[None, :]
    hot = configs[:, :, None] == xp.arange(space.max_choices)[None, None, :]
    active = xp.broadcast_to(roots, (n, k))
    for _ in range(space._depth):
        held = (hot & active[:, :, None]).reshape(n, k * space.max_choices)
        # Sums of zeros and ones: exact in any matmul precision.
        active = roots | (held.astype(np.float32) @ xp.asarray(space._activates) > 0.5)
    return active


def _scale(uniform: Float[Array, "n k"], sizes: np.ndarray) -> Int[Array, "n k"]:
    """Uniform in [0, 1) to choices: below 1 by at least 2^-23, so no product rounds up to its size.

    (``jax.random.randint`` is exact to the last bit, but takes twice as long to compile.)
    """
    return (uniform * jnp.asarray(sizes, jnp.float32)[None, :]).astype(jnp.int32)


def _walk(space: Space) -> Iterator[list[int]]:
    """Canonical configurations, depth first, later decisions fastest."""
    children = (
        space._activates.reshape(space.num_decisions, space.max_choices, space.num_decisions) > 0
    )
    config = list(space.baseline)

    def walk(position: int, activated: np.ndarray) -> Iterator[list[int]]:
        if position == space.num_decisions:
            yield list(config)
            return
        i = space._order[position]
        if not activated[i]:
            config[i] = space.baseline[i]
            yield from walk(position + 1, activated)
            return
        for choice in range(len(space.decisions[i].choices)):
            config[i] = choice
            yield from walk(position + 1, activated | children[i, choice])

    return walk(0, space._roots)


def _check(decisions: tuple[Decision, ...], baseline: tuple[int, ...]) -> None:
    if not decisions:
        raise ValueError("the space has no decisions; write at least one")
    by_name = {d.name: d for d in decisions}
    if len(by_name) < len(decisions):
        raise ValueError(f"decisions have names twice among {', '.join(d.name for d in decisions)}")
    if len(baseline) != len(decisions):
        raise ValueError(f"the baseline has {len(baseline)} entries for {len(decisions)} decisions")
    for d, index in zip(decisions, baseline, strict=True):
        if not d.choices:
            raise ValueError(f"{d.name} has no choices; write at least one")
        if any(find(d.choices, c) != i for i, c in enumerate(d.choices)):
            raise ValueError(f"{d.name} has a choice twice in {_listed(d.choices)}")
        if d.kind not in ("categorical", "number"):
            raise ValueError(f"{d.name}: kind={d.kind!r} is not known; write categorical or number")
        if not 0 <= index < len(d.choices):
            raise ValueError(
                f"{d.name}: baseline index {index} is not in 0 to {len(d.choices) - 1}"
            )
        for parent, values in d.parents:
            if parent not in by_name:
                raise ValueError(f"{d.name}: its condition names {parent}, which is not a decision")
            if not values:
                raise ValueError(
                    f"{d.name}: its condition on {parent} has no values; write at least one"
                )
            for value in values:
                _index(f"{d.name}: its condition on {parent}", by_name[parent].choices, value)


def _index(key: str, choices: tuple[Any, ...], value: Any) -> int:
    index = find(choices, value)
    if index is None:
        raise ValueError(f"{key}: {value!r} is not a choice; write one of {_listed(choices)}")
    return index


def _baseline_index(key: str, domain: Domain, value: Any) -> int:
    if domain.interval is None:
        return _index(f"baseline.{key}", domain.choices, value)
    near = snap(domain, value)
    if near is None:
        low, high = domain.interval
        raise ValueError(f"baseline.{key}={value!r} is not a number in [{low:g}, {high:g}]")
    return near


def _matches(where: str, glob: str, names: Mapping[str, Any]) -> list[str]:
    found = [name for name in names if fnmatch.fnmatchcase(name, glob)]
    if not found:
        raise ValueError(f"{where}: no decision is called {glob!r}; known keys: {', '.join(names)}")
    return found


def _listed(choices: tuple[Any, ...]) -> str:
    return ", ".join(map(str, choices))
