# Optuna is an extra: where it is missing, types are too.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Parameter values and the numbers that Optuna stores for them: the number itself, or the index of a choice.

Values may be any objects: equal to each other (``True``, ``1``), not equal to themselves (NaN), not comparable.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution


def stored_number(distribution: BaseDistribution, value: Any) -> float | int | None:
    """Optuna's number for a value, the index if it is a choice; None if the value is not in the distribution.

    A choice is first looked up with its type (``True`` is not ``1``) in its JSON form, since a database returns tuples
    as lists.
    """
    try:
        if isinstance(distribution, CategoricalDistribution):
            index = _index_of(distribution.choices, value)
            return int(distribution.to_internal_repr(value)) if index is None else index
        number = float(distribution.to_internal_repr(value))
        return number if distribution._contains(number) else None
    except Exception:  # noqa: BLE001 - foreign objects may raise anything
        return None


def value_of(distribution: BaseDistribution, number: Any) -> Any:
    """The value for which Optuna stores the number.

    Raises:
        ValueError: it is not in the distribution.

    Examples:
        >>> value_of(CategoricalDistribution(["a", "b"]), 1)
        'b'
    """
    is_number = isinstance(number, int | float) and not math.isnan(finite(number))
    if not (is_number and distribution._contains(number)):
        raise ValueError(f"{number!r} is not in {distribution}")
    return distribution.to_external_repr(number)


def checked(distribution: BaseDistribution, number: Any) -> float | int | None:
    """The number if it is in the distribution, else None."""
    try:
        value_of(distribution, number)
    except ValueError:
        return None
    return number


def are_stored_alike(distribution: BaseDistribution, one: Any, other: Any) -> bool:
    """Whether Optuna stores two choices as the first of them, because they are equal (``True``, ``1``, ``1.0``)."""
    if not isinstance(distribution, CategoricalDistribution) or one is None or other is None:
        return False
    choices, stored = distribution.choices, distribution.to_internal_repr
    return stored(choices[int(one)]) == stored(choices[int(other)])


def survives_storage(distribution: BaseDistribution) -> bool:
    """Whether a database returns the choices unchanged."""
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    return all(c is None or isinstance(c, bool | int | float | str) for c in choices)


def finite(value: Any) -> float:
    """The value as a finite number, or NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _index_of(choices: Sequence[Any], value: Any) -> int | None:
    """The index of the first choice of the same type and value."""
    if value is None or isinstance(value, bool | int | float | str):
        same = (type(c) is type(value) and (c == value or _are_nan(c, value)) for c in choices)
    else:
        same = (_json(c) == _json(value) for c in choices)
    return next((i for i, found in enumerate(same) if found), None)


def _are_nan(one: Any, other: Any) -> bool:
    return one != one and other != other  # noqa: PLR0124


def _json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return f"{type(value).__name__}: {value!r}"
