"""Scores raw rows with a run's winner: ``python -m autorank.score RUN ROWS [OUT]``.

RUN is a run's folder or its ``model`` folder. ROWS is a table with the log's feature columns, in any order, as text
(also packed), Parquet or Arrow; it is read as the log was. Labels and times may be absent. OUT (.parquet or .csv;
default: ROWS with ``.scored.parquet``) gets a row for each row of ROWS, in the same order: its columns, its ``line`` in
ROWS (in a file without lines its row, from 1), ``p_<metric>`` for each metric, and a ``reason`` where it has no score.
Exit status 1: ROWS is no such table, or not one of its rows has a score.
"""

import logging
import sys
from pathlib import Path

from autorank.data.logs.rows_to_score import read
from autorank.data.prepare.encoders_file import read_encoders
from autorank.data.prepare.scoring_files import load_reading
from autorank.serving.export import load_model
from autorank.serving.score_file import Tally, write_scores
from autorank.serving.unknown_shares import warnings

LOG = logging.getLogger("autorank")
_ENDINGS = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".arrow", ".feather", ".ipc")
_PACKED = (".gz", ".gzip", ".bz2", ".zst", ".zstd", ".lz4")


def score(run: Path, rows: Path, out: Path | None = None) -> Path:
    """Writes the rows with their probabilities and gives the file.

    Raises:
        FileNotFoundError: no model, no rows.
        ValueError: a column that the model needs is missing, by name; no table; a model that does not load.
    """
    return score_with_tally(run, rows, out)[0]


def score_with_tally(run: Path, rows: Path, out: Path | None = None) -> tuple[Path, Tally]:
    """`score`, and what was met on the way; warnings are logged."""
    folder = run / "model" if (run / "model").is_dir() else run
    scorer = load_model(folder)
    encoders, reading = read_encoders(folder), load_reading(folder)
    out = _default_out(rows) if out is None else out
    _require_out(out, rows)
    if reading is None:
        LOG.warning(
            "%s was saved by an older version, which did not note how its log was read: %s is read as a "
            "table with a line of names; train again to have it read as the log was",
            folder,
            rows,
        )
    found = read(rows, reading, encoders)
    tally = write_scores(found, encoders, scorer.predict, scorer.metrics, out)
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
    name = rows.name
    for endings in (_PACKED, _ENDINGS):
        if Path(name).suffix.lower() in endings:
            name = Path(name).stem
    return rows.with_name(f"{name}.scored.parquet")


def _require_out(out: Path, rows: Path) -> None:
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"{out}: write OUT as a name that ends in .parquet or .csv")
    if out.exists() and rows.exists() and out.samefile(rows):
        raise ValueError(f"{out} is the file to be scored; write OUT as another name")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is no folder; make it, or write OUT elsewhere")


def main(arguments: list[str]) -> int:
    """The command line."""
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
