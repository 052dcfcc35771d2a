"""Compares finished searches or trained models: groups by all that differs but the seed, pairs by data and seed.

python -m experiments.compare runs/a runs/b 'runs/sweep/*'
python -m experiments.compare runs/sweep --reference searcher=paper --csv runs/sweep.csv --page runs/sweep.html

Differences are in percent NE from the reference group, with 95 % intervals of Student's t over the seeds that both
have. Runs that are unfinished, broken or of another format are listed with the reason and left out.
"""

import argparse
import sys
from pathlib import Path

from autorank.comparison.compare import compare
from autorank.comparison.page import comparison_page
from autorank.comparison.pairing import MEASURES
from autorank.comparison.text import console_text, csv_text
from autorank.ledger.safe_write import write_atomically


def parser() -> argparse.ArgumentParser:
    """The command line's."""
    measures = "\n".join(f"{name}: {text}" for name, text in MEASURES.items()).replace("%", "%%")
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("runs", nargs="+", help="folders of runs or of sweeps, or quoted patterns")
    made.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="WHICH",
        help="what the others are compared with: a group's letter, the folder of one of its runs,\n"
        "or a setting key=value, repeated as needed; the group of the first run without it",
    )
    made.add_argument(
        "--measure",
        choices=tuple(MEASURES),
        help=f"{measures}\nthe first that any run has without it",
    )
    made.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="KEY",
        help="tells runs apart by this too, for example search.executor or git_revision",
    )
    made.add_argument("--csv", type=Path, metavar="FILE", help="writes the table with all digits")
    made.add_argument("--page", type=Path, metavar="FILE", help="writes one HTML page with figures")
    return made


def main() -> int:
    """Prints the comparison; 1 where there is nothing to compare."""
    given = parser().parse_args()
    try:
        found = compare(given.runs, given.reference, given.measure, given.by)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(console_text(found))
    for path, make in ((given.csv, csv_text), (given.page, comparison_page)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, make(found))
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
