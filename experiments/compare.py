"""Compares finished searches or trained models: groups by all that differs but the seed, pairs by data and seed.

python -m experiments.compare runs/a runs/b 'runs/sweep/*'
python -m experiments.compare runs/sweep --reference searcher=paper --csv runs/sweep.csv --page runs/sweep.html
python -m experiments.compare 'runs/*/wandb' wandb:TEAM/PROJECT      W&B's offline folders; a project, with a login
python -m experiments.compare runs/movielens runs/kuairand --collect    also into the repository's table of searches

Differences are in percent NE from the reference group, with 95 % intervals of Student's t over the seeds that both
have. Runs that are unfinished, broken or of another format are listed with the reason and left out.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from autorank.comparison.collection import Shelf, collect, up_to_date
from autorank.comparison.compare import Comparison, compare
from autorank.comparison.page import comparison_page
from autorank.comparison.pairing import MEASURES
from autorank.comparison.text import console_text, csv_text
from autorank.ledger.safe_write import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
SHELF = Shelf(RESULTS / "searches.csv", RESULTS / "finalists.csv", ROOT / "README.md")


def parser() -> argparse.ArgumentParser:
    """The command line's."""
    measures = "\n".join(f"{name}: {text}" for name, text in MEASURES.items()).replace("%", "%%")
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument(
        "runs",
        nargs="*",
        help="folders of runs or of sweeps, or quoted patterns; W&B's offline folders; wandb:[ENTITY/]PROJECT",
    )
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
    made.add_argument(
        "--collect",
        action="store_true",
        help="puts the runs into experiments/results/searches.csv, finalists.csv and the README's table;\n"
        "rows of other settings, another seed or another log are not replaced",
    )
    made.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="DATA",
        help="with --collect: this data set's rows may be replaced by those of other settings",
    )
    made.add_argument(
        "--check", action="store_true", help="only says whether the README has the table of the CSV"
    )
    return made


def check() -> int:
    """Prints whether the README's table is that of the CSV; 1 if it is not."""
    fresh = up_to_date(SHELF)
    print(
        f"{SHELF.page.name} has the table of {SHELF.searches.name}"
        if fresh
        else f"{SHELF.page.name} differs from {SHELF.searches.name}: "
        "write python -m experiments.compare RUN ... --collect"
    )
    return 0 if fresh else 1


def put_away(found: Comparison, replace: list[str]) -> None:
    """Collects the runs of a comparison.

    Raises:
        ValueError: what is there is of other settings.
    """
    results = [result for group in found.groups for result in group.results]
    for name in collect(results, SHELF, replace):
        print(f"collected {name} in {SHELF.searches}")


def open_api() -> Any:
    """The way to a W&B server, loaded only where a place asks for one."""
    from autorank.app.wandb_projects import open_api

    return open_api()


def main() -> int:
    """Prints the comparison; 1 where there is nothing to compare."""
    commands = parser()
    given = commands.parse_args()
    if given.check:
        return check()
    if not given.runs:
        commands.error("name at least one run, for example runs/movielens")
    if given.replace and not given.collect:
        commands.error("--replace DATA has no effect without --collect")
    try:
        found = compare(given.runs, given.reference, given.measure, given.by, open_api)
        if given.collect:
            put_away(found, given.replace)
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
