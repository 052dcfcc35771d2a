"""Whether scored rows have far more unknown ids than the held-out rows had.

Unknown ids cost a model what it learned of a field. Some are to be expected, at the share that the held-out part of the
log had; many more mean another file, other identifiers, or a column that was written differently.
"""

from collections.abc import Mapping

import numpy as np

ODDS = 3.0  # times the held-out part's odds of an unknown id: what lies below is no news
LEAST = 0.05  # nor is a share below this one
LEVEL = 1e-4  # chance of a false warning for a field whose true share is just at that bound


def bound(share: float, num_rows: int) -> float:
    """The largest share of unknown ids that is no news, from a share among ``num_rows`` held-out rows."""
    # One unknown row more, and one known: no row of a few is no proof of a share of 0.
    expected = (share * num_rows + 1) / (num_rows + 2)
    odds = ODDS * expected / (1 - expected)
    return max(LEAST, odds / (1 + odds))


def warnings(
    unknown: Mapping[str, int], num_rows: int, held_out: Mapping[str, float], held_out_rows: int
) -> list[str]:
    """A line for each field with a share that chance does not explain.

    A field is named where so many unknown ids among so few rows had a chance of less than `LEVEL` if the true share
    were `bound`: three unknown ids in a file of three rows are chance, ten in one of ten are not.

    Args:
        unknown: of each field, rows with an unknown id among ``num_rows`` scored ones.
        held_out: of each field, the share of such rows among ``held_out_rows`` held-out ones.
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
                f"training did not know, and {_percent(share)} of the {held_out_rows:,} held-out rows had; "
                "compare how the column is written here and in the log"
            )
    return found


def _percent(share: float) -> str:
    return f"{np.round(100 * share, 2):g} %"
