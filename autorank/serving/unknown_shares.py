"""Detects scored rows that have far more unknown ids than the held-out rows had.

An unknown id hides what the model has learned about a field. Some are expected, with the share that the held-out part
of the log had. Many more indicate another file, other identifiers, or a column that is written differently.
"""

from collections.abc import Mapping

import numpy as np

ODDS = 3.0  # up to so many times the held-out rows' odds of an unknown id are expected
LEAST = 0.05  # and so are shares up to this one
LEVEL = 1e-4  # probability of a false warning for a field whose true share equals the bound


def bound(share: float, num_rows: int) -> float:
    """The largest expected share of unknown ids, from the share among ``num_rows`` held-out rows.

    Examples:
        >>> bound(0.0, 10_000), round(bound(0.2, 10_000), 3)
        (0.05, 0.429)
    """
    # With one more unknown and one more known row, because none among a few rows does not prove a share of 0.
    expected = (share * num_rows + 1) / (num_rows + 2)
    odds = ODDS * expected / (1 - expected)
    return max(LEAST, odds / (1 + odds))


def warnings(
    unknown: Mapping[str, int], num_rows: int, held_out: Mapping[str, float], held_out_rows: int
) -> list[str]:
    """A warning for each field with significantly more unknown ids than expected.

    A field is reported if a true share of `bound` would give so many unknown ids with a probability of less than
    `LEVEL`. Three unknown ids in three rows are not reported, ten in ten rows are.

    Args:
        unknown: field -> rows with an unknown id among the scored rows.
        num_rows: number of scored rows.
        held_out: field -> share of such rows among the held-out rows.
        held_out_rows: number of held-out rows.

    Examples:
        >>> warnings({"user": 3}, 3, {"user": 0.0}, 10_000)
        []
        >>> len(warnings({"user": 10}, 10, {"user": 0.0}, 10_000))
        1
    """
    from scipy.stats import binom

    found = []
    for name, count in unknown.items():
        if name not in held_out or not count:
            continue
        share = held_out[name]
        if float(binom.sf(count - 1, num_rows, bound(share, held_out_rows))) < LEVEL:
            found.append(
                f"field {name}: {_percent(count / num_rows)} of {num_rows:,} scored rows have a value that "
                f"training did not see, and {_percent(share)} of the {held_out_rows:,} held-out rows had; "
                "compare how the column is written here and in the log"
            )
    return found


def _percent(share: float) -> str:
    return f"{np.round(100 * share, 2):g} %"
