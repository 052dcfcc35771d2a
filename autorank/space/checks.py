"""What a space refuses: decisions that cannot be meant, and arrays that are no canonical configurations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autorank.space.arrays import active
from autorank.space.decision import Decision, index_of, listed
from autorank.space.grammar import find
from autorank.space.tables import Tables


def check_decisions(decisions: Sequence[Decision], baseline: Sequence[int]) -> None:
    """Checks names, choices, kinds, conditions and the baseline's indices; `tables.parents_first` finds cycles.

    Raises:
        ValueError: naming the decision.
    """
    if not decisions:
        raise ValueError("the space has no decisions; write at least one")
    by_name = {d.name: d for d in decisions}
    if len(by_name) < len(decisions):
        raise ValueError(f"decisions have names twice among {', '.join(d.name for d in decisions)}")
    if len(baseline) != len(decisions):
        raise ValueError(f"the baseline has {len(baseline)} entries for {len(decisions)} decisions")
    for d, index in zip(decisions, baseline, strict=True):
        check_choices(d)
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
                index_of(f"{d.name}: its condition on {parent}", by_name[parent].choices, value)


def check_choices(decision: Decision) -> None:
    """Checks the choices and the kind of one decision.

    Raises:
        ValueError: naming it.
    """
    name, choices = decision.name, decision.choices
    if not choices:
        raise ValueError(f"{name} has no choices; write at least one")
    if any(find(choices, c) != i for i, c in enumerate(choices)):
        raise ValueError(f"{name} has a choice twice in {listed(choices)}")
    if decision.kind not in ("categorical", "number"):
        raise ValueError(
            f"{name}: kind={decision.kind!r} is not known; write categorical or number"
        )


def check_configs(names: Sequence[str], tables: Tables, configs: Any) -> None:
    """Checks that ``configs`` is an integer array ``[n, k]`` of canonical configurations.

    Raises:
        ValueError: naming row, decision and value.
    """
    configs = np.asarray(configs)
    if configs.ndim != 2 or configs.shape[1] != len(names):
        raise ValueError(f"configurations have shape {configs.shape}, expected (n, {len(names)})")
    if not np.issubdtype(configs.dtype, np.integer):
        raise ValueError(f"configurations are {configs.dtype}, expected choice indices (int32)")
    outside = (configs < 0) | (configs >= tables.num_choices)
    for row, i in np.argwhere(outside)[:1]:
        raise ValueError(
            f"row {row}: {names[i]} has choice index {configs[row, i]}, "
            f"expected 0 to {tables.num_choices[i] - 1}"
        )
    stale = ~active(np, tables, configs) & (configs != tables.baseline)
    for row, i in np.argwhere(stale)[:1]:
        raise ValueError(
            f"row {row}: {names[i]} is inactive but has choice index {configs[row, i]}; "
            f"write the baseline's, {tables.baseline[i]} (Space.canonical does)"
        )
