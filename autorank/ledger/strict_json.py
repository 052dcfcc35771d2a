"""JSON without NaN: what a ledger's columns and a run's files hold.

NaN is written as null, an infinity as the string "Infinity" or "-Infinity" (which ``float`` and NumPy read back).
Finite floats survive exactly.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON of nested dicts, lists, arrays and numbers.

    Examples:
        >>> dumps({"curve": np.array([0.5, np.nan, np.inf])})
        '{"curve":[0.5,null,"Infinity"]}'
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(plain(value), allow_nan=False, separators=separators, indent=indent)


def plain(value: Any) -> Any:
    """The value in types that JSON knows."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
