"""Scores raw rows with a run's winner: ``python -m autorank.score RUN ROWS.parquet [OUT.parquet]``.

RUN is a run's folder or its ``model`` folder; ROWS (.parquet or .csv) has the log's raw feature columns, in any order;
OUT (default: ROWS with ``.scored.parquet``) gets them back with one column ``p_<metric>`` for each metric.
"""

import sys
from pathlib import Path

from autorank.data.encoders import encode
from autorank.data.store import load_encoders
from autorank.export import load_model


def score(run: Path, rows: Path, out: Path | None = None) -> Path:
    """Writes the rows with their probabilities and gives the file.

    Raises:
        FileNotFoundError: no model, no rows.
        ValueError: a column that the model needs is missing, by name; a model that does not load.
    """
    import polars as pl

    folder = run / "model" if (run / "model").is_dir() else run
    scorer = load_model(folder)
    if not rows.is_file():
        raise FileNotFoundError(f"{rows} is no file; give a Parquet or CSV file of raw rows")
    # Text stays text: "01" is not 1 where the log was prepared.
    frame = (
        pl.read_csv(rows, infer_schema=False) if rows.suffix == ".csv" else pl.read_parquet(rows)
    )
    sparse, dense = encode(load_encoders(folder), {name: frame[name] for name in frame.columns})
    probabilities = scorer.predict(sparse, dense)
    out = out or rows.with_name(f"{rows.stem}.scored.parquet")
    columns = [pl.Series(f"p_{m}", probabilities[:, q]) for q, m in enumerate(scorer.metrics)]
    frame.with_columns(columns).write_parquet(out)
    return out


def main(arguments: list[str]) -> int:
    """The command line."""
    if len(arguments) not in (2, 3) or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    try:
        run, rows, *out = map(Path, arguments)
        print(score(run, rows, out[0] if out else None))
    except (FileNotFoundError, ValueError) as error:
        print(f"autorank.score: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
