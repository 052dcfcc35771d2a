"""What can be wrong with a ledger, in words that say what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A reader holds the file for milliseconds; only a program that is not ours can make a writer wait this long.
BUSY_SECONDS = 60.0


class LedgerMismatch(RuntimeError):
    """The ledger belongs to another search; the message names the item that differs."""


class RunInUse(RuntimeError):
    """Another living process writes this run; the message names it."""


class LedgerCorrupt(RuntimeError):
    """The file is damaged or not a ledger."""


class LedgerFull(RuntimeError):
    """The disk is full or failing; nothing half-written is left."""


def damage(path: Path, what: object) -> str:
    """The message about a damaged file."""
    return (
        f"{path} is damaged or no ledger: {what}. Restore it from a copy, or move the folder "
        f"{path.parent} away and start again; `sqlite3 {path.name} .recover` may save rows"
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises SQLite's errors about ``path`` as those of this module."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise LedgerFull(
                f"{path}: {error}. Make room on the disk and start the same command again: "
                f"everything up to the last finished trial is kept"
            ) from error
        if code == sqlite3.SQLITE_BUSY:
            raise RunInUse(
                f"{path} has been held by another program for {BUSY_SECONDS:.0f} s; close what "
                f"has it open"
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise LedgerCorrupt(damage(path, error)) from error
        raise
