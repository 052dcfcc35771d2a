"""Ledgers of format 1, made by its own schema: a promotion's round was 100 * round + rung, and there was no rung."""

import json
import sqlite3
from pathlib import Path

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE records (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL,
    payload TEXT NOT NULL, UNIQUE (kind, key))""",
    """CREATE TABLE trials (id INTEGER PRIMARY KEY, stage TEXT NOT NULL, round INTEGER NOT NULL,
    position INTEGER NOT NULL, config TEXT NOT NULL, seed INTEGER NOT NULL, fidelity REAL NOT NULL,
    predicted TEXT, status TEXT NOT NULL, reason TEXT NOT NULL, quality REAL, cost REAL,
    outcome TEXT, proposed_at REAL NOT NULL, finished_at REAL, UNIQUE (stage, round, position))""",
)


def write(path: Path, meta: list[tuple], records: list[tuple], trials: list[tuple]) -> None:
    """A file with these rows, all columns in the schema's order; ``identity`` gets the format."""
    connection = sqlite3.connect(path)
    with connection:
        for statement in SCHEMA:
            connection.execute(statement)
        for table, rows in (("meta", meta), ("records", records), ("trials", trials)):
            for row in rows:
                places = ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table} VALUES ({places})", row)
        ((text,),) = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchall()
        text = json.dumps(json.loads(text) | {"format": "1"})
        connection.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (text,))
    connection.close()


def downgrade(path: Path) -> None:
    """Replaces a ledger of format 2 by what an older version would have written."""
    connection = sqlite3.connect(path)
    meta = connection.execute("SELECT key, value FROM meta").fetchall()
    records = connection.execute("SELECT id, kind, key, payload FROM records").fetchall()
    trials = connection.execute(
        """SELECT id, stage, CASE stage WHEN 'promotion' THEN 100 * round + rung ELSE round END, position, config,
        seed, fidelity, predicted, status, reason, quality, cost, outcome, proposed_at, finished_at FROM trials"""
    ).fetchall()
    connection.close()
    path.unlink()
    write(path, meta, records, trials)
