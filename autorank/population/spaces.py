"""The capacities of a search space: one program for each width trains every model that the space has."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from autorank.base.records import value_at, with_values
from autorank.models.dhen import LAYER_NAMES, DhenConfig
from autorank.models.interactions import MODULES
from autorank.population.capacity import PADDED, Capacity, capacity_of, widest

# Decisions whose largest choice is all that counts.
LARGEST = (*PADDED, "head_depth", "head_width")
# Those of which every choice counts.
SHARED = ("num_tokens", "ensemble", "norm", "heads")
SLOTS = ("a", "b", "c")


def capacities_of(
    choices: Mapping[str, Sequence[Any]], baseline: DhenConfig, num_fields: int, num_dense: int
) -> dict[int, Capacity]:
    """The smallest capacity for each width that holds every combination of choices.

    Conditions are left out: where one forbids a combination, the capacity may be larger than needed.

    Args:
        choices: by the names of `DhenConfig`'s settings (``width``, ``layer1.a``); the rest is the baseline's.
        baseline: the model that the choices change.
        num_fields: categorical fields of a row.
        num_dense: dense features of a row.

    Examples:
        >>> found = capacities_of({"width": (8, 16), "rank": (4, 8), "layer1.a": ("dot", "fmb")}, DhenConfig(), 4, 2)
        >>> [(width, capacity.rank, len(capacity.kinds)) for width, capacity in found.items()]
        [(8, 8, 2), (16, 8, 2)]
    """
    found = {}
    for width in dict.fromkeys(_choices(choices, baseline, "width")):
        configs = dict.fromkeys(_representatives({**choices, "width": (width,)}, baseline))
        found[int(width)] = widest(capacity_of([c], num_fields, num_dense) for c in configs)
    return found


def _choices(
    choices: Mapping[str, Sequence[Any]], baseline: DhenConfig, name: str
) -> Sequence[Any]:
    return choices.get(name) or (value_at(baseline, name),)


def _representatives(
    choices: Mapping[str, Sequence[Any]], baseline: DhenConfig
) -> Iterator[DhenConfig]:
    """Configurations with the largest sizes that together have everything that the choices have."""

    def of(name: str) -> Sequence[Any]:
        return _choices(choices, baseline, name)

    fixed = {"width": of("width")[0]} | {name: max(of(name)) for name in LARGEST}
    fixed |= {name: of(name)[0] for name in SHARED}
    depths = of("num_layers")
    slots = {f"{layer}.{slot}": of(f"{layer}.{slot}") for layer in LAYER_NAMES for slot in SLOTS}
    full = {name: _filled(found) for name, found in slots.items()}
    bare = {name: "none" if "none" in found else found[0] for name, found in slots.items()}
    reached = {name for name in slots if LAYER_NAMES.index(name.split(".")[0]) < max(depths)}
    shared = [dict(zip(SHARED, found, strict=True)) for found in product(*map(of, SHARED))]
    stacks = [{**full, "num_layers": max(depths)}] + [bare | {"num_layers": d} for d in depths]
    # One module less changes the number of embeddings where layers are concatenated.
    stacks += [
        {**full, name: "none", "num_layers": max(depths)}
        for name in sorted(reached)
        if "none" in slots[name]
    ]
    for stack, settings in product(stacks, shared):
        yield from _valid(baseline, fixed | stack | settings)
    for name in sorted(reached):
        for module, heads in product(slots[name], of("heads")):
            stack = {**full, name: module, "num_layers": max(depths), "heads": heads}
            if heads == of("heads")[0] or _has_heads(module):
                yield from _valid(baseline, fixed | stack)


def _filled(names: Sequence[str]) -> str:
    """A module of a slot, one without heads if there is one: heads do not divide every width."""
    return min(names, key=lambda name: (name == "none", _has_heads(name)))


def _has_heads(module: str) -> bool:
    return module != "none" and "heads" in MODULES[module].traits["uses"]


def _valid(baseline: DhenConfig, values: Mapping[str, Any]) -> Iterator[DhenConfig]:
    """The configuration, unless its settings do not go together."""
    try:
        yield with_values(baseline, values)
    except ValueError:
        return
