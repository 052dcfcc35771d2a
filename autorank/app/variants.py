"""Searchers with changed settings under one name, as comparisons run and record them: ``paper+predictor.members=1``.

The name says all that differs from what the searcher is in a comparison otherwise, in alphabetical order, so that equal
settings have equal names and different ones never share a row. Values are written in Hydra's grammar.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from autorank.app.composition import record_with, refusal, unknown_setting
from autorank.app.idle import idle_in_searcher, refuse_idle_predictor
from autorank.base.records import flatten
from autorank.searchers.base import SEARCHERS, SearcherConfig
from autorank.searchers.named import batch_settings, find_searcher
from autorank.surrogates.settings import PredictorConfig

PREDICTOR = "predictor."


class Variant(NamedTuple):
    """A searcher of a comparison."""

    name: str  # canonical
    settings: SearcherConfig
    predictor: PredictorConfig


def variant(name: str, batch_size: int, shared: Mapping[str, Any] | None = None) -> Variant:
    """The searcher that a name describes.

    In a comparison the batch is that of the comparison, and only quality counts (``alphas=[0.0]``) unless the name says
    otherwise.

    Args:
        name: ``SEARCHER+key=value+...``, where a key is a setting of the searcher or ``predictor.KEY``.
        batch_size: proposals of an ask.
        shared: more settings by the same keys; those in the name win.

    Raises:
        ValueError: an unknown searcher or key, a bad value, or a setting without effect.

    Examples:
        >>> variant("paper+steps=50+predictor.members=1", 10).name
        'paper+predictor.members=1+steps=50'
        >>> variant("paper+steps=2000", 10, {"predictor.loss": "mse", "predictor.members": 10}).name
        'paper+predictor.loss=mse'
    """
    base, own = parsed(name)
    entry = find_searcher(base)
    given = dict(shared or {}) | own
    for key in given:
        _refuse(entry.name, key)
    theirs = {k.removeprefix(PREDICTOR): v for k, v in given.items() if k.startswith(PREDICTOR)}
    ours = {k: v for k, v in given.items() if not k.startswith(PREDICTOR)}
    usual = batch_settings(entry, batch_size)
    usual |= {"alphas": [0.0]} if "alphas" in entry.fields else {}
    settings = record_with(entry.settings, usual | ours, "searcher")
    predictor = record_with(PredictorConfig, _nested(theirs), "predictor")
    for sentence in idle_in_searcher(settings):
        raise ValueError(f"{name}: {sentence}")
    changed = _changes(settings, record_with(entry.settings, usual, "searcher"))
    changed |= {PREDICTOR + k: v for k, v in _changes(predictor, PredictorConfig()).items()}
    parts = [entry.name, *(f"{key}={text(value)}" for key, value in sorted(changed.items()))]
    return Variant("+".join(parts), settings, predictor)


def variant_names(
    names: Sequence[str],
    batch_size: int,
    searcher: Mapping[str, Any],
    predictor: Mapping[str, Any],
    others: Collection[str] = (),
) -> list[str]:
    """The canonical names of a comparison's searchers, without repeats.

    Args:
        names: as `variant` takes them.
        batch_size: proposals of an ask.
        searcher: settings by searcher, for all of its variants; may be nested.
        predictor: settings of the predictor, for all searchers that read it; may be nested.
        others: names that are no searchers of ours and have no settings here.

    Raises:
        ValueError: as `variant`, or settings that none of the searchers reads.
    """
    bases = {name: name if name in others else _registered(name, others) for name in names}
    for chosen in searcher:
        if chosen in others:
            raise ValueError(f"searcher.{chosen} is a peer, which runs at its own defaults")
        if find_searcher(chosen).name not in bases.values():
            raise ValueError(
                f"searcher.{chosen} has no effect: searchers={list(names)} lacks {chosen}"
            )
    readers = {b for b in bases.values() if b in SEARCHERS and _reads_predictor(b)}
    for key in flatten(predictor):
        if not readers:
            known = " or ".join(n for n in SEARCHERS if _reads_predictor(n))
            raise ValueError(
                f"predictor.{key} has no effect: none of searchers={list(names)} reads the predictor; it is for {known}"
            )
    found = []
    for name, base in bases.items():
        if name in others:
            found.append(name)
            continue
        shared = {}
        for chosen, values in searcher.items():
            if find_searcher(chosen).name == base:
                shared |= flatten(values)
        if base in readers:
            shared |= flatten(predictor, PREDICTOR)
        found.append(variant(name, batch_size, shared).name)
    return list(dict.fromkeys(found))


def parsed(name: str) -> tuple[str, dict[str, Any]]:
    """A name's searcher and its changes.

    Raises:
        ValueError: a change that is none.

    Examples:
        >>> parsed("autorank+warps=[none]+fit_rate=1e+2")
        ('autorank', {'warps': ['none'], 'fit_rate': 100.0})
    """
    base, *changes = re.split(r"\+(?=[A-Za-z_][\w.]*=)", name)
    if "+" in base:
        raise ValueError(f"{name}: write changes of settings as +key=value")
    values = {}
    for change in changes:
        try:
            override = OverridesParser.create().parse_override(change)
        except Exception as error:  # noqa: BLE001 - of several packages; all mean that it cannot be read
            raise ValueError(f"{name}: {change} is not key=value in Hydra's grammar") from error
        if override.is_sweep_override():
            raise ValueError(f"{name}: {change} has several values; write one variant for each")
        values[override.key_or_group] = override.value()
    return base, values


def text(value: Any) -> str:
    """A value in Hydra's grammar.

    Examples:
        >>> text((0.0, 1e-05)), text(True), text(None), text("rank")
        ('[0.0,1e-05]', 'true', 'null', 'rank')
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(map(text, value))}]"
    return {None: "null", True: "true", False: "false"}[value] if _is_word(value) else str(value)


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _registered(name: str, others: Collection[str]) -> str:
    """The searcher of a variant's name."""
    base = parsed(name)[0]
    try:
        return find_searcher(base).name
    except ValueError:
        known = ", ".join([*SEARCHERS, *others])
        raise ValueError(f"searcher {base!r} is not known; write one of {known}") from None


def _reads_predictor(name: str) -> bool:
    return SEARCHERS[name].traits["reads_predictor"]


def _refuse(base: str, key: str) -> None:
    """Refuses a setting that a searcher of a comparison does not read."""
    if key.startswith(PREDICTOR):
        refuse_idle_predictor(base, [key])
        name = key.removeprefix(PREDICTOR).partition(".")[0]
        if name not in {f.name for f in dataclasses.fields(PredictorConfig)}:
            raise ValueError(unknown_setting("predictor", name, PredictorConfig))
    elif key in ("name", "batch_size"):
        raise ValueError(f"searcher.{key} has no effect here; write searchers=[...] and batch=...")
    elif key not in SEARCHERS[base].fields:
        raise ValueError(refusal(SEARCHERS, key, base))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of one level as nested mappings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        head, _, rest = key.partition(".")
        if rest:
            found.setdefault(head, {})[rest] = value
        else:
            found[head] = value
    return found


def _changes(record: Any, usual: Any) -> dict[str, Any]:
    """The settings that differ, by dotted key."""
    names = (f.name for f in dataclasses.fields(record))
    return flatten(
        {n: getattr(record, n) for n in names if getattr(record, n) != getattr(usual, n)}
    )
