"""The static tables behind a space's array functions: which choice activates what, which feature is which choice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.space.decision import Decision
from autorank.space.grammar import find, scaled


class Tables(NamedTuple):
    """NumPy arrays that follow from decisions and baseline; `tables_of` makes them."""

    baseline: np.ndarray  # int32 [k]
    num_choices: np.ndarray  # int32 [k]
    max_choices: int  # c
    # Positions of the decisions, parents first.
    order: tuple[int, ...]
    # Length of the longest chain of conditions: the passes needed to decide what is active.
    depth: int
    # Bool [k]: decisions without conditions.
    roots: np.ndarray
    # Float32 [k * c, k]: 1 where a parent's choice (row) activates a child (column).
    activates: np.ndarray
    # Int32 [x] each: decision and choice of every feature; the choice is -1 for a number.
    feature_decision: np.ndarray
    feature_choice: np.ndarray
    # Float32 [k, c]: scaled values of numbers, 0 elsewhere.
    numbers: np.ndarray

    @property
    def children(self) -> np.ndarray:
        """``activates`` by decision, choice and child, ``[k, c, k]``."""
        k = len(self.roots)
        return self.activates.reshape(k, self.max_choices, k)


def tables_of(decisions: Sequence[Decision], baseline: Sequence[int]) -> Tables:
    """The tables of decisions that `checks.check_decisions` accepts.

    Raises:
        ValueError: the conditions form a cycle.
    """
    order = parents_first(decisions)
    num_choices = np.array([len(d.choices) for d in decisions], np.int32)
    max_choices = max(len(d.choices) for d in decisions)
    return Tables(
        baseline=np.array(baseline, np.int32),
        num_choices=num_choices,
        max_choices=max_choices,
        order=order,
        depth=longest_chain(decisions, order),
        roots=np.array([not d.parents for d in decisions]),
        activates=activation_table(decisions, max_choices),
        **feature_columns(decisions, max_choices),
    )


def parents_first(decisions: Sequence[Decision]) -> tuple[int, ...]:
    """Positions of the decisions in an order in which every parent precedes its children.

    Raises:
        ValueError: there is none, because the conditions form a cycle.
    """
    parents = {d.name: {p for p, _ in d.parents} for d in decisions}
    order: list[int] = []
    while len(order) < len(decisions):
        placed = {decisions[i].name for i in order}
        ready = [
            i for i, d in enumerate(decisions) if d.name not in placed and parents[d.name] <= placed
        ]
        if not ready:
            left = [n for n in parents if n not in placed]
            raise ValueError(f"conditions among {', '.join(left)} form a cycle; drop one of them")
        order += ready
    return tuple(order)


def longest_chain(decisions: Sequence[Decision], order: Sequence[int]) -> int:
    """Conditions in the longest chain from a root to a decision."""
    depth: dict[str, int] = {}
    for i in order:
        d = decisions[i]
        depth[d.name] = max((depth[p] + 1 for p, _ in d.parents), default=0)
    return max(depth.values())


def activation_table(decisions: Sequence[Decision], max_choices: int) -> np.ndarray:
    """`Tables.activates`."""
    positions = {d.name: i for i, d in enumerate(decisions)}
    table = np.zeros((len(decisions), max_choices, len(decisions)), np.float32)
    for child, decision in enumerate(decisions):
        for name, values in decision.parents:
            parent = positions[name]
            for value in values:
                table[parent, find(decisions[parent].choices, value), child] = 1.0
    return table.reshape(-1, len(decisions))


def feature_columns(decisions: Sequence[Decision], max_choices: int) -> dict[str, np.ndarray]:
    """The three tables of `Tables` that describe features."""
    columns: list[tuple[int, int]] = []
    numbers = np.zeros((len(decisions), max_choices), np.float32)
    for i, d in enumerate(decisions):
        if d.kind == "number":
            numbers[i, : len(d.choices)] = scaled(d.choices, d.log)
            columns.append((i, -1))
        else:
            columns += [(i, j) for j in range(len(d.choices))]
    pairs = np.array(columns, np.int32)
    return {"feature_decision": pairs[:, 0], "feature_choice": pairs[:, 1], "numbers": numbers}


def feature_rows(tables: Tables) -> np.ndarray:
    """What each choice adds to the features, float32 ``[k * c + 1, x]``; the last row is zero.

    The features of a configuration are the sum of the rows of its active decisions.
    """
    num_features = len(tables.feature_decision)
    rows = np.zeros((len(tables.roots) * tables.max_choices + 1, num_features), np.float32)
    pairs = zip(tables.feature_decision.tolist(), tables.feature_choice.tolist(), strict=True)
    for column, (i, j) in enumerate(pairs):
        first = i * tables.max_choices
        if j < 0:
            rows[first : first + tables.max_choices, column] = tables.numbers[i]
        else:
            rows[first + j, column] = 1.0
    return rows
