"""Scores raw rows with the winner of a run: ``python -m autorank.score RUN ROWS [OUT]``.

RUN is the folder of a run, or its ``model`` folder. ROWS is a table with the log's feature columns, in any order: text
(also compressed), Parquet or Arrow. It is read in the way that the log was; labels and times may be missing. OUT
(.parquet or .csv; default: the name of ROWS with ``.scored.parquet``) has one row for each row of ROWS, in the same
order: its columns, its ``line`` in ROWS (the number of the row, from 1, if the file has no lines), ``p_<metric>`` for
each metric, and a ``reason`` if it has no score. The exit status is 1 if ROWS is not such a table, or if no row has a
score.
"""

import logging
import sys
from pathlib import Path

from autorank.data.logs.rows_to_score import read_rows_to_score
from autorank.data.prepare.encoders_file import read_encoders
from autorank.data.prepare.scoring_files import load_reading
from autorank.serving.export import load_model
from autorank.serving.score_file import Tally, write_scores
from autorank.serving.unknown_shares import warnings

LOG = logging.getLogger("autorank")
_ENDINGS = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".arrow", ".feather", ".ipc")
_COMPRESSIONS = (".gz", ".gzip", ".bz2", ".zst", ".zstd", ".lz4")


def score(run: Path, rows: Path, out: Path | None = None) -> Path:
    """Writes the rows with their probabilities, and returns the file.

    Args:
        run: the folder of a run, or its model folder.
        rows: a table with the feature columns.
        out: .parquet or .csv; None: next to ``rows``.

    Raises:
        FileNotFoundError: no model, or no rows.
        ValueError: not a table, missing columns (named), or a model that cannot be loaded.
    """
    return score_with_tally(run, rows, out)[0]


def score_with_tally(run: Path, rows: Path, out: Path | None = None) -> tuple[Path, Tally]:
    """`score`, and the counts of rows; logs warnings."""
    folder = run / "model" if (run / "model").is_dir() else run
    scorer = load_model(folder)
    encoders, reading = read_encoders(folder), load_reading(folder)
    out = _default_out(rows) if out is None else out
    _require_out(out, rows)
    if reading is None:
        LOG.warning(
            "%s was saved by an older version, which did not record how its log was read, so %s is read as a "
            "table with a header; train again to have rows read like the log",
            folder,
            rows,
        )
    found = read_rows_to_score(rows, reading, encoders)
    tally = write_scores(found, encoders, scorer, out)
    if tally.num_scored < tally.num_rows:
        LOG.warning(
            "%s: %s of %s rows have a reason instead of a score: %s%s",
            rows,
            f"{tally.num_rows - tally.num_scored:,}",
            f"{tally.num_rows:,}",
            "; ".join(tally.first),
            "; ..." if tally.num_rows - tally.num_scored > len(tally.first) else "",
        )
    if reading is not None and tally.num_scored:
        for line in warnings(
            tally.unknown, tally.num_scored, reading["unknown_share"], reading["held_out_rows"]
        ):
            LOG.warning("%s: %s", rows, line)
    return out, tally


def _default_out(rows: Path) -> Path:
    """The input's name without its endings, with ``.scored.parquet``."""
    name = rows.name
    for endings in (_COMPRESSIONS, _ENDINGS):
        if Path(name).suffix.lower() in endings:
            name = Path(name).stem
    return rows.with_name(f"{name}.scored.parquet")


def _require_out(out: Path, rows: Path) -> None:
    """Rejects an output file that cannot be written, or that is the input."""
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"{out}: write OUT as a name that ends in .parquet or .csv")
    if out.exists() and rows.exists() and out.samefile(rows):
        raise ValueError(f"{out} is the file to be scored; write OUT as another name")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is not a folder; create it, or write OUT elsewhere")


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if len(arguments) not in (2, 3) or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    try:
        run, rows, *out = map(Path, arguments)
        path, tally = score_with_tally(run, rows, out[0] if out else None)
        print(path)
    except (OSError, ValueError) as error:
        print(f"autorank.score: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 1 if tally.num_rows and not tally.num_scored else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
