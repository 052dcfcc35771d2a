"""The canonical text of a cell: two cells hold the same value if and only if their canonical texts are equal.

The type of a column often depends on the program that wrote the file: pandas turns integers into floats after one
missing value and writes them as ``7.0``. Values are therefore compared as text in a canonical form:

- A whole number is its digits, whatever its type or width: ``7`` for 7, 7.0, the text ``7`` and the text ``7.0``; ``0``
  for -0.0. Other numbers are written as Python prints them.
- Text with leading zeros, an exponent or a plus sign is not a whole number: ``007``, ``1e3`` and ``+7`` remain distinct
  values. ``1.10`` differs from ``1.1``, because both may be version numbers.
- True and false are ``true`` and ``false``; so are the texts ``True``, ``TRUE``, ``False`` and ``FALSE``. They differ
  from 1 and 0.
- Surrounding white space is ignored. Empty text, white space alone, null and NaN are missing values.

Floats cannot hold all digits of long identifiers; `digits_lost` finds those that may have lost some.
"""

import re
from typing import Any

import numpy as np

WHITE_SPACE = "\t\n\v\f\r "
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+", re.ASCII)
_SPELLINGS = {"-0": "0", "True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
# Matches every text that `canonical` changes (and a few that it does not), in Arrow's regex syntax.
_CANDIDATES = r"^[\t-\r ]|[\t-\r ]$|^-?[0-9]+\.0+$|^-0$|^True$|^TRUE$|^False$|^FALSE$"
_LARGEST = 2.0**64  # whole floats from here on are not identifiers


def canonical(text: str) -> str:
    """The canonical form of a cell's text.

    Examples:
        >>> [canonical(text) for text in ("7.0", " 7", "007", "-0.0", "True", "1.10", "1e3")]
        ['7', '7', '007', '0', 'true', '1.10', '1e3']
    """
    text = text.strip(WHITE_SPACE)
    found = _WHOLE.fullmatch(text)
    text = found[1] if found else text
    return _SPELLINGS.get(text, text)


def canonical_texts(values: Any) -> Any:
    """`canonical` of each value of an Arrow string array without nulls; the same array if none changes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # pyarrow.compute defines its functions at import time, so type checkers cannot see them.
    rows = np.flatnonzero(pc.match_substring_regex(values, _CANDIDATES))  # type: ignore[attr-defined]
    if not len(rows):
        return values
    mask = np.zeros(len(values), bool)
    mask[rows] = True
    changed = pa.array(map(canonical, values.take(pa.array(rows)).to_pylist()), pa.string())
    return pc.replace_with_mask(values, pa.array(mask), changed)  # type: ignore[attr-defined]


def texts_of_floats(numbers: np.ndarray) -> Any:
    """Canonical texts of floats of any width, as an Arrow string array; empty for NaN."""
    import pyarrow as pa

    distinct, codes = np.unique(numbers, return_inverse=True)
    with np.errstate(invalid="ignore"):
        whole = (np.trunc(distinct) == distinct) & (np.abs(distinct) < _LARGEST)
    texts = np.where(np.isnan(distinct), "", distinct.astype(str)).astype(object)
    texts[whole] = [str(int(number)) for number in distinct[whole]]
    return pa.array(texts, pa.string()).take(pa.array(codes.reshape(-1)))


def digits_lost(numbers: np.ndarray) -> np.ndarray:
    """Marks floats that are whole numbers too large for their last digits to be exact; bool, shape of the input."""
    exact = 2.0 ** (np.finfo(numbers.dtype).nmant + 1)
    with np.errstate(invalid="ignore"):
        return np.isfinite(numbers) & (np.abs(numbers) >= exact)
