"""A few of the tables of `experiments/fuzz/tables.py`, and what that program must notice."""

import pytest

from autorank.data.logs import rows_to_score
from autorank.data.prepare import encoders, ingest
from experiments.fuzz import made_tables, tables


@pytest.fixture(autouse=True)
def one_program(monkeypatch):
    """All bad rows are told of, and all tables have one shape."""
    monkeypatch.setattr(ingest, "KEPT_BAD_ROWS", 1 << 20)
    monkeypatch.setattr(made_tables, "SHAPES", ((2, 1, 1),))


def test_forty_tables():
    found = [tables.check(seed) for seed in range(1, 41)]
    failed = [outcome for outcome in found if outcome.kind == "failed"]
    assert not failed, failed[0].message
    kinds = [outcome.kind for outcome in found]
    assert kinds.count("read") >= 20 and kinds.count("refused") >= 5


def first_read() -> int:
    return next(seed for seed in range(1, 41) if tables.check(seed).kind == "read")


def test_other_rules_in_scoring_are_noticed(monkeypatch):
    seed = first_read()
    encode = encoders.encode_rows

    def otherwise(learned, columns):
        sparse, dense, reasons = encode(learned, columns)
        sparse[:1] = learned.fields[0].offset
        return sparse, dense, reasons

    monkeypatch.setattr(tables, "encode_rows", otherwise)
    assert tables.check(seed).kind == "failed"


def test_a_lost_row_is_noticed(monkeypatch):
    seed = first_read()
    read = rows_to_score.read_rows_to_score

    def shortened(*arguments):
        for part in read(*arguments):
            rows = slice(0, max(len(part.cells) - 1, 0))
            features = {name: column[rows] for name, column in part.features.items()}
            cells = part.cells.slice(0, rows.stop)
            yield part._replace(cells=cells, lines=part.lines[rows], features=features)

    monkeypatch.setattr(rows_to_score, "read_rows_to_score", shortened)
    assert tables.check(seed).kind == "failed"
