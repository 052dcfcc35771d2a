"""Settings that have no effect beside others: refused where somebody counts on them, else said aloud."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from autorank.searchers.base import SEARCHERS


def changed_fields(record: Any) -> list[str]:
    """The fields of a record that are not at their defaults.

    Examples:
        >>> from autorank.surrogates.settings import PredictorConfig
        >>> changed_fields(PredictorConfig(members=3))
        ['members']
    """
    return [f.name for f in dataclasses.fields(record) if getattr(record, f.name) != usual(f)]


def usual(field: dataclasses.Field[Any]) -> Any:
    """A field's default."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def searchers_with(trait: str) -> str:
    """What to write for a searcher that has a trait.

    Examples:
        >>> searchers_with("thaws")
        'searcher=autorank'
    """
    found = [name for name, entry in SEARCHERS.items() if entry.traits.get(trait, False)]
    return " or ".join(f"searcher={name}" for name in found)


def refuse_idle_predictor(searcher: str, keys: Iterable[str]) -> None:
    """Refuses settings of the predictor under a searcher that does not learn with it.

    Args:
        searcher: a registered name.
        keys: what is set, such as ``predictor.members``.

    Raises:
        ValueError: something is set, and which searchers read it.
    """
    for key in keys:
        if SEARCHERS[searcher].traits["reads_predictor"]:
            return
        choices = searchers_with("reads_predictor")
        raise ValueError(
            f"{key} has no effect with searcher={searcher}, which learns without the predictor; it is for {choices}"
        )


def refuse_front(searcher: str, goal: str) -> None:
    """Refuses a search for the front by a searcher that looks for the best alone.

    Raises:
        ValueError: it does, and which searchers do not.
    """
    if goal == "front" and not SEARCHERS[searcher].traits.get("finds_front", False):
        choices = searchers_with("finds_front")
        raise ValueError(
            f"search.goal=front has no effect with searcher={searcher}, which looks for the best alone; write "
            f"{choices}, or search.goal=best"
        )


def refuse_warm(searcher: str, warm_start: tuple[str, ...] | None) -> None:
    """Refuses earlier searches under a searcher that does not learn from them.

    Raises:
        ValueError: they are given, and which searchers learn from them.
    """
    if warm_start and not SEARCHERS[searcher].traits.get("warms", False):
        choices = searchers_with("warms")
        raise ValueError(
            f"search.warm_start={list(warm_start)} has no effect with searcher={searcher}, which learns nothing from "
            f"earlier searches; write {choices}, or search.warm_start=null"
        )


def refuse_thaw(
    searcher: str, fidelity: str, goal: str, warm_start: tuple[str, ...] | None
) -> None:
    """Refuses a fidelity that the searcher is to decide under one that does not, or beside what it cannot do yet.

    Raises:
        ValueError: which of the settings, and what to write.
    """
    if fidelity != "freeze_thaw":
        return
    if not SEARCHERS[searcher].traits.get("thaws", False):
        choices = searchers_with("thaws")
        raise ValueError(
            f"fidelity=freeze_thaw needs a searcher that decides which trials go on, not searcher={searcher}; write "
            f"{choices}, or fidelity=halving"
        )
    if goal == "front":
        raise ValueError(
            "fidelity=freeze_thaw looks for the best alone; with search.goal=front write fidelity=full"
        )
    if warm_start:
        raise ValueError(
            f"search.warm_start={list(warm_start)} has no effect with fidelity=freeze_thaw; write fidelity=pilots, or "
            "search.warm_start=null"
        )


def idle_in_searcher(searcher: Any) -> Iterator[str]:
    """Sentences about settings of a searcher that are not at their defaults and have no effect beside its others."""
    changed = set(changed_fields(searcher))
    if getattr(searcher, "num_local", None) == 0:
        for key in sorted({"local_pool", "local_parents"} & changed):
            yield f"searcher.{key}={getattr(searcher, key)} has no effect with searcher.num_local=0"
    if getattr(searcher, "maximiser", "policy") == "policy":
        idle = {"candidates"} if hasattr(searcher, "maximiser") else set()
    else:
        idle = {"steps", "samples", "rate", "entropy_coef", "num_policies"}
    for key in sorted(idle & changed):
        yield f"searcher.{key}={getattr(searcher, key)} has no effect with searcher.maximiser={searcher.maximiser}"
    if "reward" in changed and not any(getattr(searcher, "alphas", (1.0,))):
        yield (
            f"searcher.reward={searcher.reward} has no effect with searcher.alphas={list(searcher.alphas)}: rewards "
            f"differ in how the cost counts; write for example searcher.alphas=[0.1]"
        )


def idle_settings(config: Any) -> Iterator[str]:
    """Sentences about settings of a search that are not at their defaults and have no effect."""
    data, plan, searcher = config.data, config.search, config.searcher
    if data.encoding != "hash" and "hash_size" in changed_fields(data):
        yield f"data.hash_size={data.hash_size} has no effect with data.encoding={data.encoding}"
    yield from idle_in_searcher(searcher)
    if not plan.warm_start:
        names = {"warm_first"} & set(changed_fields(plan))
        yield from (f"search.{n} has no effect without search.warm_start" for n in sorted(names))
        names = {"warm_median", "warm_sd"} & set(changed_fields(searcher))
        yield from (f"searcher.{n} has no effect without search.warm_start" for n in sorted(names))
    if plan.goal == "front" and "alphas" in changed_fields(searcher):
        yield f"searcher.alphas={list(searcher.alphas)} has no effect with search.goal=front"
    if plan.final_seeds != "auto":
        for key in {"final_half_width", "max_final_seeds"} & set(changed_fields(plan)):
            value = getattr(plan, key)
            yield f"search.{key}={value} has no effect with search.final_seeds={plan.final_seeds}; it is for auto"
