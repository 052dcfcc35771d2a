"""The SQLite file under a ledger: how it is opened, checked, read and changed.

A rollback journal (unlike WAL it works on network file systems) and one transaction for each fact: a kill at any
moment loses at most the trials in flight.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autorank.ledger import errors, locks
from autorank.ledger.errors import LedgerCorrupt, LedgerMismatch, RunInUse, damage, translated
from autorank.ledger.schema import TRIALS


class LedgerFile:
    """An open file: queries and transactions.

    Args:
        path: an existing file.
        lock: the run's, which `close` releases; None opens the file for reading only.

    Raises:
        LedgerCorrupt: a damaged or foreign file.
        LedgerMismatch: a format that this code does not read.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock = lock
        self.connection = connect(path, "ro" if lock is None else "rw")
        try:
            self.identity, self.format = self._check()
        except BaseException:
            self.connection.close()
            raise

    @property
    def trials(self) -> str:
        """What a query selects trials from: a table, or a subquery that gives an older format the columns of today."""
        return TRIALS[self.format]

    def close(self) -> None:
        """Closes the file and releases the run; calling it again does nothing."""
        self.connection.close()
        if self._lock is not None:
            locks.release(self._lock)
            self._lock = None

    def fetch(self, query: str, values: tuple = ()) -> list[tuple]:
        """All rows of a query; an open cursor would keep SQLite's lock on the file.

        A reader that meets the journal of a killed writer has it rolled back first.
        """
        with translated(self.path):
            try:
                return self.connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if self._lock is not None or not is_left_over(error):
                    raise
        roll_back(self.path)
        with translated(self.path):
            return self.connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits what is executed inside, or nothing of it."""
        with translated(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def _check(self) -> tuple[dict[str, str], str]:
        """Identity and format of a sound ledger."""
        path = self.path
        verdict = self.fetch("PRAGMA quick_check(1)")[0][0]
        if verdict != "ok":
            raise LedgerCorrupt(damage(path, verdict))
        # SQLite reads what is missing of the last page as zeros.
        size = self.fetch("PRAGMA page_count")[0][0] * self.fetch("PRAGMA page_size")[0][0]
        if path.stat().st_size < size:
            raise LedgerCorrupt(damage(path, f"{size - path.stat().st_size} bytes are missing"))
        tables = {name for (name,) in self.fetch("SELECT name FROM sqlite_master")}
        if not {"meta", "records", "trials"} <= tables:
            raise LedgerCorrupt(damage(path, "its tables are missing"))
        rows = self.fetch("SELECT value FROM meta WHERE key = 'identity'")
        identity = json.loads(rows[0][0]) if rows else {}
        found = identity.pop("format", None)
        if found not in TRIALS:
            raise LedgerMismatch(
                f"{path}: the ledger has format {found}, this code reads formats {' and '.join(TRIALS)}; use the "
                f"version of the code that wrote it, or another name for a new run"
            )
        return identity, found


def open_for_reading(path: Path) -> LedgerFile:
    """Opens a file of any known format: see `ledger.Ledger.read`."""
    if not path.is_file():
        raise FileNotFoundError(f"no ledger at {path}; give a run's folder that has a trials.db")
    return LedgerFile(path, None)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens the file with mode ``ro``, ``rw`` or ``rwc``; each statement is its own transaction."""
    with translated(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=errors.BUSY_SECONDS,
            isolation_level=None,
        )
        if mode != "ro":
            connection.execute("PRAGMA synchronous = FULL")
    return connection


def is_left_over(error: sqlite3.OperationalError) -> bool:
    """Whether reading failed because a killed writer's journal must be rolled back first."""
    return error.sqlite_errorcode in (
        sqlite3.SQLITE_READONLY_ROLLBACK,
        sqlite3.SQLITE_READONLY_RECOVERY,
        sqlite3.SQLITE_CANTOPEN,
    )


def roll_back(path: Path) -> None:
    """Undoes what a killed writer left half-done, which a read-only connection may not do."""
    try:
        descriptor = locks.lock(path)
    except RunInUse:
        return  # its writer lives, so nothing is left over by now
    except OSError as error:
        raise LedgerCorrupt(
            f"{path}: its last writer was killed in mid-write and the folder cannot be written to, "
            f"so it cannot be tidied up; open it once with write permission, or copy the folder"
        ) from error
    try:
        connection = connect(path, "rw")
        try:
            with translated(path):
                connection.execute("SELECT count(*) FROM meta").fetchone()
        finally:
            connection.close()
    finally:
        locks.release(descriptor)
