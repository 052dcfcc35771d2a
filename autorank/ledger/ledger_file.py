"""The file under the ledger: who may write it, how it is made, what its errors mean."""

import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FORMAT = "1"
BUSY_SECONDS = 60.0  # a reader holds the file for milliseconds; only a foreign tool reaches this
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE records (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL,
    payload TEXT NOT NULL, UNIQUE (kind, key))""",
    """CREATE TABLE trials (id INTEGER PRIMARY KEY, stage TEXT NOT NULL, round INTEGER NOT NULL,
    position INTEGER NOT NULL, config TEXT NOT NULL, seed INTEGER NOT NULL, fidelity REAL NOT NULL,
    predicted TEXT, status TEXT NOT NULL, reason TEXT NOT NULL, quality REAL, cost REAL,
    outcome TEXT, proposed_at REAL NOT NULL, finished_at REAL, UNIQUE (stage, round, position))""",
)


class LedgerMismatch(RuntimeError):
    """The ledger belongs to another search; names the item that differs."""


class RunInUse(RuntimeError):
    """Another living process writes this run; names it."""


class LedgerCorrupt(RuntimeError):
    """The file is damaged, or no ledger at all."""


class LedgerFull(RuntimeError):
    """The disk is full (or failing); nothing half-written is left."""


_held: set[int] = set()  # descriptors of locks


def keep(descriptor: int) -> None:
    """A copy of this process (``os.fork``) lets go of this lock: left behind, it would hold it for ever."""
    _held.add(descriptor)


def release(descriptor: int) -> None:
    """Closes a lock that is kept."""
    _held.discard(descriptor)
    os.close(descriptor)


def _let_go() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def lock(path: Path) -> int:
    """Takes the run; the kernel gives it back when this process ends, however it ends. `release` gives it back before.

    Raises:
        RunInUse: a living process has it.
    """
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 256).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise RunInUse(
            f"{path.parent} is being written by {holder}; wait for it, stop it, or give this run "
            f"another name"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    with suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    keep(descriptor)
    return descriptor


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens the file with mode ``ro``, ``rw`` or ``rwc``; each statement is its own transaction."""
    with translated(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
        )
        if mode != "ro":
            connection.execute("PRAGMA synchronous = FULL")
    return connection


def create(path: Path, identity: Mapping[str, str]) -> None:
    """Makes the file elsewhere and moves it into place: a ledger that exists is whole."""
    part = path.with_name(path.name + ".part")
    # A journal left beside a removed ledger would be played into the new one.
    for stale in (part, *(p.with_name(p.name + "-journal") for p in (part, path))):
        stale.unlink(missing_ok=True)
    try:
        connection = connect(part, "rwc")
        try:
            with translated(path):
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    connection.execute(statement)
                text = json.dumps(dict(identity) | {"format": FORMAT})
                connection.execute("INSERT INTO meta VALUES ('identity', ?)", (text,))
                connection.execute("COMMIT")
        finally:
            connection.close()
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check(path: Path, fetch: Callable[[str], list[tuple]]) -> dict[str, Any]:
    """The identity of a sound ledger.

    Raises:
        LedgerCorrupt: a damaged or foreign file.
        LedgerMismatch: a format that this code does not read.
    """
    verdict = fetch("PRAGMA quick_check(1)")[0][0]
    if verdict != "ok":
        raise LedgerCorrupt(damage(path, verdict))
    # SQLite takes what is missing of the last page for zeros.
    size = fetch("PRAGMA page_count")[0][0] * fetch("PRAGMA page_size")[0][0]
    if path.stat().st_size < size:
        raise LedgerCorrupt(damage(path, f"{size - path.stat().st_size} bytes are missing"))
    tables = {name for (name,) in fetch("SELECT name FROM sqlite_master")}
    if not {"meta", "records", "trials"} <= tables:
        raise LedgerCorrupt(damage(path, "its tables are missing"))
    rows = fetch("SELECT value FROM meta WHERE key = 'identity'")
    identity = json.loads(rows[0][0]) if rows else {}
    if identity.get("format") != FORMAT:
        raise LedgerMismatch(
            f"{path}: the ledger has format {identity.get('format')}, this code reads format "
            f"{FORMAT}; use the version of the code that wrote it, or another name for a new run"
        )
    return identity


def compare(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuses to continue a search with another one's ledger."""
    wanted = dict(wanted) | {"format": FORMAT}
    for item in sorted(found.keys() | wanted.keys()):
        if found.get(item) != wanted.get(item):
            raise LedgerMismatch(
                f"{path} belongs to another search: its {item} "
                f"{_difference(found.get(item), wanted.get(item))}. Give this run another name, or "
                f"move the folder {path.parent} away"
            )


def _difference(found: str | None, wanted: str | None) -> str:
    """Where both are settings in JSON, only those that differ."""
    if found and wanted and found.startswith("{") and wanted.startswith("{"):
        with suppress(ValueError):
            old, new = json.loads(found), json.loads(wanted)
            keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
            ours, theirs = (
                ", ".join(f"{k}={json.dumps(s[k]) if k in s else '(not set)'}" for k in keys)
                for s in (new, old)
            )
            return f"has {theirs}, this run's has {ours}"
    return f"is {found!r}, this run's is {wanted!r}"


def is_left_over(error: sqlite3.OperationalError) -> bool:
    """Whether reading failed because a killed writer's journal must be rolled back first."""
    return error.sqlite_errorcode in (
        sqlite3.SQLITE_READONLY_ROLLBACK,
        sqlite3.SQLITE_READONLY_RECOVERY,
        sqlite3.SQLITE_CANTOPEN,
    )


def roll_back(path: Path) -> None:
    """Undoes what a killed writer left half-done; a read-only connection may not."""
    try:
        descriptor = lock(path)
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
        release(descriptor)


def damage(path: Path, what: object) -> str:
    """What is wrong with the file, and what to do."""
    return (
        f"{path} is damaged or no ledger: {what}. Restore it from a copy, or move the folder "
        f"{path.parent} away and start again; `sqlite3 {path.name} .recover` may save rows"
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors in words that say what to do."""
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
