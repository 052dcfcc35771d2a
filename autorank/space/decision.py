"""One named decision of a space, and how a value is found among its choices."""

from typing import Any, NamedTuple

from autorank.space.grammar import find


class Decision(NamedTuple):
    """One knob: a config key with the values that it may take."""

    name: str
    choices: tuple[Any, ...]
    # "categorical" (one-hot features) or "number" (one feature, scaled to [0, 1]).
    kind: str = "categorical"
    # Whether numbers are scaled by their logarithm.
    log: bool = False
    # Pairs (parent's name, its values). The decision is active if any pair holds and that parent is active itself;
    # without parents it is always active.
    parents: tuple[tuple[str, tuple[Any, ...]], ...] = ()


def index_of(key: str, choices: tuple[Any, ...], value: Any) -> int:
    """Position of a value among the choices.

    Raises:
        ValueError: it is none of them; the message starts with ``key``.
    """
    index = find(choices, value)
    if index is None:
        raise ValueError(f"{key}: {value!r} is not a choice; write one of {listed(choices)}")
    return index


def listed(choices: tuple[Any, ...]) -> str:
    """The choices as one comma-separated text."""
    return ", ".join(map(str, choices))
