"""When two cells hold the same value: what a cell of any type is as text.

A file's type is an accident of the program that wrote it: pandas turns integers into floats after one missing value,
and writes them as ``7.0``. So values are compared by a plain text:

- A whole number is its digits, whatever its type or width: ``7`` for 7, 7.0, the text ``7`` and the text ``7.0``; ``0``
  for -0.0. Other numbers are as Python prints them.
- Text with leading zeros, an exponent or another sign than a minus is no whole number: ``007``, ``1e3`` and ``+7`` are
  values of their own, and ``1.10`` is not ``1.1``, as both may be versions.
- True and false are ``true`` and ``false``, and so are the texts ``True``, ``TRUE``, ``False`` and ``FALSE``. They are
  not 1 and 0.
- White space around a text is none of it. Nothing, nothing but white space, null and NaN are missing.

Floats have no room for all digits of long identifiers; `digits_lost` finds those that may have lost some.
"""

import re
from typing import Any

import numpy as np

BLANK = "\t\n\v\f\r "
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+", re.ASCII)
_WORDS = {"-0": "0", "True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
# What `plain` may change, for Arrow's regular expressions; a little more is harmless.
_CANDIDATES = r"^[\t-\r ]|[\t-\r ]$|^-?[0-9]+\.0+$|^-0$|^True$|^TRUE$|^False$|^FALSE$"
_LARGEST = 2.0**64  # whole floats from here on are no identifiers


def plain(text: str) -> str:
    """A cell's text as values are compared.

    >>> [plain(text) for text in ("7.0", " 7", "007", "-0.0", "True", "1.10", "1e3")]
    ['7', '7', '007', '0', 'true', '1.10', '1e3']
    """
    text = text.strip(BLANK)
    found = _WHOLE.fullmatch(text)
    text = found[1] if found else text
    return _WORDS.get(text, text)


def plain_texts(values: Any) -> Any:
    """`plain` of an Arrow string array without nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # The functions of this module are made when it is loaded, where a type checker does not see them.
    rows = np.flatnonzero(pc.match_substring_regex(values, _CANDIDATES))  # type: ignore[attr-defined]
    if not len(rows):
        return values
    mask = np.zeros(len(values), bool)
    mask[rows] = True
    changed = pa.array(map(plain, values.take(pa.array(rows)).to_pylist()), pa.string())
    return pc.replace_with_mask(values, pa.array(mask), changed)  # type: ignore[attr-defined]


def texts_of_floats(numbers: np.ndarray) -> Any:
    """Floats of any width as an Arrow string array; empty where NaN."""
    import pyarrow as pa

    distinct, codes = np.unique(numbers, return_inverse=True)
    with np.errstate(invalid="ignore"):
        whole = (np.trunc(distinct) == distinct) & (np.abs(distinct) < _LARGEST)
    texts = np.where(np.isnan(distinct), "", distinct.astype(str)).astype(object)
    texts[whole] = [str(int(number)) for number in distinct[whole]]
    return pa.array(texts, pa.string()).take(pa.array(codes.reshape(-1)))


def digits_lost(numbers: np.ndarray) -> np.ndarray:
    """Which floats, of any width, are whole numbers too long to be sure of their last digits."""
    exact = 2.0 ** (np.finfo(numbers.dtype).nmant + 1)
    with np.errstate(invalid="ignore"):
        return np.isfinite(numbers) & (np.abs(numbers) >= exact)
