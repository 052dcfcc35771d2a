"""Settings as frozen dataclasses: checks of single values, dotted keys, and fingerprints.

A record lies next to the code that reads it. ``__post_init__`` turns YAML's lists into tuples, so that a record is
hashable, and refuses bad values by name.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any


def later(default: Any, **before: Any) -> Any:
    """A field added after ledgers existed; its default is what was done before it, or else ``before=...`` says that.

    Fingerprints in earlier ledgers do not cover it (`autorank.app.earlier_ledgers`), so that they can be resumed: at
    the default, or with what was done before it.

    Examples:
        >>> later(2).metadata["before"], later(2, before=1).metadata["before"]
        (2, 1)
    """
    return field(default=default, metadata={"later": True, "before": default} | before)


def location(default: str | None = None) -> Any:
    """A field that names a file or a folder; relative ones are relative to the working folder."""
    return field(default=default, metadata={"location": True})


def locations(record: Any) -> dict[str, Any]:
    """The fields of a record that name a file or a folder, with their values."""
    known = (f.name for f in dataclasses.fields(record) if f.metadata.get("location"))
    return {name: getattr(record, name) for name in known}


def require(key: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuses a value that is not among the allowed ones.

    Raises:
        ValueError: it is not; the message lists them.
    """
    if value not in allowed:
        raise ValueError(
            f"{key}={value!r} is not known; write one of {', '.join(map(str, allowed))}"
        )


def require_range(key: str, value: float | int, low: float | int, high: float | int) -> None:
    """Refuses a number outside ``[low, high]``, and NaN.

    Raises:
        ValueError: it is outside.
    """
    if not low <= value <= high:
        raise ValueError(f"{key}={value!r} must lie in [{low}, {high}]")


def as_tuples(record: Any, *names: str) -> None:
    """Replaces lists in fields of a frozen record by tuples; for ``__post_init__``."""
    for name in names:
        object.__setattr__(record, name, tuple(getattr(record, name)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; both spellings may be mixed.

    Examples:
        >>> flatten({"model": {"width": 8}, "training.dense_rate": 0.1})
        {'model.width': 8, 'training.dense_rate': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def value_at(record: Any, key: str) -> Any:
    """What a record holds under a dotted key.

    Raises:
        ValueError: a key that it does not have.
    """
    for part in key.split("."):
        if not dataclasses.is_dataclass(record) or part not in record.__dataclass_fields__:
            raise ValueError(f"{key} is not a setting; see --help for those there are")
        record = getattr(record, part)
    return record


def with_values(record: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of a record with dotted keys replaced.

    Raises:
        ValueError: a key that the record does not have, named in full.
    """
    known = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    nested: dict[str, dict[str, Any]] = {}
    direct: dict[str, Any] = {}
    for key, value in values.items():
        head, _, rest = key.partition(".")
        if head not in known or (rest and not dataclasses.is_dataclass(known[head])):
            raise ValueError(f"unknown key {prefix}{key}; known here: {', '.join(sorted(known))}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        direct[head] = with_values(known[head], inner, f"{prefix}{head}.")
    return replace(record, **direct)


def plain(record: Any) -> dict[str, Any]:
    """A record as plain dicts and lists, for JSON, YAML and W&B."""
    return json.loads(json.dumps(dataclasses.asdict(record)))


def digest(content: Any) -> str:
    """sha256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
