"""A space from text: Hydra's sweep grammar per key, conditions between globs, a baseline."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from autorank.space.decision import Decision, index_of, listed
from autorank.space.grammar import Domain, read, snap
from autorank.space.space import Space

# For each child glob the parent globs and their values.
Conditions = Mapping[str, Mapping[str, Sequence[Any]]]


def parse_space(
    decisions: Mapping[str, str | Domain],
    conditions: Conditions,
    baseline: Mapping[str, Any],
    *,
    grid_size: int,
) -> Space:
    """Builds a space from settings as a user writes them.

    Args:
        decisions: key -> ``choice(...)``, ``range(...)`` or ``interval(...)``, tagged or not
            (`autorank.space.grammar`), or a domain that was read before.
        conditions: key glob -> {parent glob: values}; a decision under several of them is active if
            any holds.
        baseline: key -> value; inside an interval the nearest grid point stands for it.
        grid_size: points of an interval, at least 2.

    Examples:
        >>> space = parse_space(
        ...     {"layers": "choice(1,2)", "layer2.width": "choice(8,16)", "rate": "tag(log, interval(1e-4, 1))"},
        ...     {"layer2.*": {"layers": [2]}},
        ...     {"layers": 1, "layer2.width": 8, "rate": 0.02},
        ...     grid_size=5,
        ... )
        >>> space.decode(space.encode({"layers": 2}))
        {'layers': 2, 'layer2.width': 8, 'rate': 0.01}
        >>> space.cardinality()
        15

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
    parents = parents_of(domains, conditions)
    for key in baseline:
        if key not in domains:
            raise ValueError(
                f"baseline.{key} is not among the decisions; drop it or add the decision"
            )
    for key, domain in domains.items():
        if key not in baseline:
            raise ValueError(f"baseline.{key} is missing; write one of {listed(domain.choices)}")
    found = tuple(
        Decision(key, d.choices, d.kind, d.log, tuple(parents[key])) for key, d in domains.items()
    )
    indices = (baseline_index(key, domain, baseline[key]) for key, domain in domains.items())
    return Space(found, tuple(indices))


def parents_of(
    domains: Mapping[str, Domain], conditions: Conditions
) -> dict[str, list[tuple[str, tuple[Any, ...]]]]:
    """The pairs (parent, values) that activate each key; an empty list where it is always active.

    Raises:
        ValueError: a glob that matches no key, or a value that the parent does not have.
    """
    parents: dict[str, list[tuple[str, tuple[Any, ...]]]] = {key: [] for key in domains}
    for child_glob, wanted in conditions.items():
        for child in matches(f"conditions.{child_glob}", child_glob, domains):
            for parent_glob, values in wanted.items():
                where = f"conditions.{child_glob}.{parent_glob}"
                for parent in matches(where, parent_glob, domains):
                    choices = domains[parent].choices
                    known = tuple(
                        choices[index_of(f"{where} ({parent})", choices, v)] for v in values
                    )
                    parents[child].append((parent, known))
    return parents


def baseline_index(key: str, domain: Domain, value: Any) -> int:
    """The baseline's choice of one decision; on a grid the nearest point.

    Raises:
        ValueError: the value is no choice, or outside the interval.
    """
    if domain.interval is None:
        return index_of(f"baseline.{key}", domain.choices, value)
    near = snap(domain, value)
    if near is None:
        low, high = domain.interval
        raise ValueError(f"baseline.{key}={value!r} is not a number in [{low:g}, {high:g}]")
    return near


def matches(where: str, glob: str, names: Mapping[str, Any]) -> list[str]:
    """The names that a glob matches.

    Raises:
        ValueError: there are none.
    """
    found = [name for name in names if fnmatch.fnmatchcase(name, glob)]
    if not found:
        raise ValueError(f"{where}: no decision is called {glob!r}; known keys: {', '.join(names)}")
    return found
