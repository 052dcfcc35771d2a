"""How a ledger comes to be: created empty, or migrated from an older format; in both cases whole or not at all."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autorank.ledger.errors import translated
from autorank.ledger.file import LedgerFile, connect
from autorank.ledger.schema import FORMAT, SCHEMA


def with_format(identity: Mapping[str, str]) -> str:
    """The identity's text in the file."""
    return json.dumps(dict(identity) | {"format": FORMAT})


def create(path: Path, identity: Mapping[str, str]) -> None:
    """Makes an empty ledger.

    Raises:
        LedgerFull: no room; nothing is left behind.
    """
    # A journal left beside a removed ledger would be played into the new one.
    path.with_name(path.name + "-journal").unlink(missing_ok=True)
    with moved_into_place(path) as connection:
        connection.execute("INSERT INTO meta VALUES ('identity', ?)", (with_format(identity),))


def migrate(old: LedgerFile) -> None:
    """Replaces a ledger of an older format by one of today's; the caller has its lock and opens the new one.

    The rows are copied to a new file, which then takes the old one's place. A kill at any moment leaves the old one
    or the new one whole. Readers that have the old one open go on reading it.

    Raises:
        LedgerFull: no room; the old ledger is as before.
    """
    with moved_into_place(old.path.resolve()) as new:
        for table in ("meta", "records", "trials"):
            copy(old, new, table)
        text = with_format(old.identity)
        new.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (text,))


def copy(old: LedgerFile, new: sqlite3.Connection, table: str) -> None:
    """Copies all rows of one table, by the columns of the new file."""
    columns = [name for _, name, *_ in new.execute(f"PRAGMA table_info({table})")]
    source = old.trials if table == "trials" else table
    rows = old.connection.execute(f"SELECT {', '.join(columns)} FROM {source}")
    places = ", ".join("?" * len(columns))
    new.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)


@contextmanager
def moved_into_place(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on a new file with empty tables, which takes the place of ``path`` when it is committed."""
    part = path.with_name(path.name + ".part")
    for stale in (part, part.with_name(part.name + "-journal")):
        stale.unlink(missing_ok=True)
    try:
        connection = connect(part, "rwc")
        try:
            with translated(path):
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    connection.execute(statement)
                yield connection
                connection.execute("COMMIT")
        finally:
            connection.close()
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
