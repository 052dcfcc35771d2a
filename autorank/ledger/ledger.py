"""The ledger of a run: every proposal and every result, in one SQLite file, as it happens.

It is the only state of a search: resuming, analysing and reporting need nothing else. One writer at
a time (a lock that the kernel releases when its process dies), a rollback journal (works on network
file systems, unlike WAL) and one transaction for each fact, so that a kill at any moment loses at
most the trials in flight.

JSON in the ledger is strict: NaN is written as null, an infinity as the string "Infinity" or
"-Infinity" (which ``float`` and NumPy read back). Finite floats survive exactly (but a
label of -0.0 comes back as 0.0).
"""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.ledger import ledger_file
from autorank.ledger.ledger_file import LedgerCorrupt, LedgerFull, LedgerMismatch, RunInUse

__all__ = [
    "Ledger",
    "LedgerCorrupt",
    "LedgerFull",
    "LedgerMismatch",
    "RunInUse",
    "Trial",
    "dumps",
]


class Trial(NamedTuple):
    """One row: a configuration, where it was proposed, and what became of it."""

    id: int
    stage: str  # seed_noise, pilot, round, promotion, final
    round: int
    position: int  # within the batch
    config: tuple[int, ...]
    seed: int
    fidelity: float  # share of the training rows
    predicted: (
        list[float | None] | None
    )  # [NE gain in percent, log FLOPs ratio]; of a sweep the job's
    status: str  # proposed, finished, failed
    reason: str  # of the failure
    quality: float | None  # label, NE gain in percent against the baseline, lower is better
    cost: float | None  # log(FLOPs / baseline FLOPs)
    outcome: (
        dict[str, Any] | None
    )  # curve [t][q] with null for NaN, ne, flops, num_rows, seconds, ...
    proposed_at: float  # unix seconds
    finished_at: float | None


class Ledger:
    """Use as a context manager: ``with Ledger.open(folder / "trials.db", identity) as ledger``."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        identity: Mapping[str, str],
        reread: Callable[[dict[str, str]], Mapping[str, str]] | None = None,
    ) -> "Ledger":
        """Creates the ledger, or reopens it if it belongs to the same search.

        Args:
            path: the file, usually ``<run folder>/trials.db``.
            identity: what makes the search this one: fingerprints of space, data, settings; seed.
            reread: from the identity that the ledger has to the one that this version would have
                written for the same search; a ledger that then agrees is given the new one.

        Raises:
            LedgerMismatch: an item of the identity differs from the ledger's.
            RunInUse: another living process has it open for writing.
            LedgerCorrupt: the file is damaged.
            LedgerFull: no room to create it.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = ledger_file.lock(path)
        connection = None
        try:
            if not path.exists():
                ledger_file.create(path, identity)
            connection = ledger_file.connect(path, "rw")
            ledger = cls(path, connection, descriptor)
            written = ledger_file.check(path, ledger._fetch)
            found = written if reread is None else reread(written)
            ledger_file.compare(path, found, identity)
            if found != written:
                ledger.put("identity", found)
            return ledger
        except BaseException:
            if connection is not None:
                connection.close()
            ledger_file.release(descriptor)
            raise

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Opens for reading only, also while a search is writing.

        Raises:
            FileNotFoundError: there is none.
            LedgerCorrupt: the file is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no ledger at {path}; give a run's folder that has a trials.db"
            )
        ledger = cls(path, ledger_file.connect(path, "ro"), None)
        try:
            ledger_file.check(path, ledger._fetch)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Closes the file and lets go of the run; calling it again does nothing."""
        self._connection.close()
        if self._lock is not None:
            ledger_file.release(self._lock)
            self._lock = None

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- trials -----------------------------------------------------------------------------------

    def propose(
        self,
        stage: str,
        round: int,
        configs: Any,
        seeds: Iterable[int],
        fidelity: float,
        predicted: Any = None,
    ) -> list[Trial]:
        """Writes a batch of proposals, all or none, and gives their rows.

        Args:
            stage: where in the search.
            round: number of the batch within the stage.
            configs: int ``[n, k]``.
            seeds: one for each configuration.
            fidelity: share of the training rows.
            predicted: ``[n, 2]`` or None; NaN becomes null.

        Raises:
            ValueError: lengths differ, or this batch was proposed before.
            LedgerFull: no room; the ledger is as before.
        """
        configs, seeds = [list(map(int, c)) for c in configs], list(map(int, seeds))
        forecasts = [None] * len(configs) if predicted is None else [dumps(p) for p in predicted]
        if not len(configs) == len(seeds) == len(forecasts):
            raise ValueError(
                f"{stage} {round}: {len(configs)} configs, {len(seeds)} seeds, "
                f"{len(forecasts)} predictions"
            )
        now = time.time()
        rows = [
            (stage, int(round), i, dumps(c), s, float(fidelity), p, now)
            for i, (c, s, p) in enumerate(zip(configs, seeds, forecasts, strict=True))
        ]
        with self._transaction() as connection:
            query = "SELECT count(*) FROM trials WHERE stage = ? AND round = ?"
            if connection.execute(query, (stage, int(round))).fetchone()[0]:
                raise ValueError(f"{stage} {round} is in the ledger already; read it with trials()")
            connection.executemany(
                """INSERT INTO trials (stage, round, position, config, seed, fidelity, predicted,
                proposed_at, status, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'proposed', '')""",
                rows,
            )
        return self.trials(stage, round)

    def finish(
        self,
        trial_id: int,
        outcome: Mapping[str, Any],
        quality: float | None,
        cost: float | None,
    ) -> Trial:
        """Writes a result and gives the row; one without a finite quality is a failed trial.

        Raises:
            ValueError: no such trial, or it has its result already.
            LedgerFull: no room; the ledger is as before.
        """
        quality, cost = _finite(quality), _finite(cost)
        reason = str(outcome.get("failed") or "")
        if quality is None and not reason:
            reason = "its label is not finite"
        status, quality = ("failed", None) if reason else ("finished", quality)
        with self._transaction() as connection:
            changed = connection.execute(
                """UPDATE trials SET status = ?, reason = ?, quality = ?, cost = ?, outcome = ?,
                finished_at = ? WHERE id = ? AND status = 'proposed'""",
                (status, reason, quality, cost, dumps(outcome), time.time(), int(trial_id)),
            ).rowcount
            if changed != 1:
                raise ValueError(f"trial {trial_id} does not wait for a result")
        return self._trials("WHERE id = ?", (int(trial_id),))[0]

    def trials(self, stage: str | None = None, round: int | None = None) -> list[Trial]:
        """All rows, those of a stage, or those of one batch, in the order of proposal."""
        wanted = {"stage": stage, "round": round}
        known = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in known)
        return self._trials(f"WHERE {where}" if where else "", tuple(known.values()))

    def _trials(self, where: str, values: tuple) -> list[Trial]:
        query = f"SELECT {', '.join(Trial._fields)} FROM trials {where} ORDER BY id"
        return [_trial(row) for row in self._fetch(query, values)]

    # --- events and facts -------------------------------------------------------------------------

    def record(self, kind: str, key: str, payload: Any) -> None:
        """Appends an event; the first one under ``(kind, key)`` stays: repeating is harmless."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO records (kind, key, payload) VALUES (?, ?, ?)",
                (kind, str(key), dumps(payload)),
            )

    def records(self, kind: str) -> list[Any]:
        """Payloads of one kind, oldest first."""
        rows = self._fetch("SELECT payload FROM records WHERE kind = ? ORDER BY id", (kind,))
        return [json.loads(payload) for (payload,) in rows]

    def put(self, key: str, value: Any) -> None:
        """Sets a fact about the run, replacing what was there."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, dumps(value)))

    def get(self, key: str) -> Any:
        """A fact about the run; None where there is none."""
        rows = self._fetch("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(rows[0][0]) if rows else None

    # --- inside -----------------------------------------------------------------------------------

    def _fetch(self, query: str, values: tuple = ()) -> list[tuple]:
        # All rows at once: an open cursor would keep its lock on the file.
        with ledger_file.translated(self.path):
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if self._lock is not None or not ledger_file.is_left_over(error):
                    raise
        ledger_file.roll_back(self.path)
        with ledger_file.translated(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with ledger_file.translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON of nested dicts, lists, arrays, numbers; for NaN see the module's head."""
    separators = (",", ":") if indent is None else None
    return json.dumps(_plain(value), allow_nan=False, separators=separators, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _trial(row: tuple) -> Trial:
    trial = Trial(*row)
    return trial._replace(
        config=tuple(json.loads(row[4])),
        predicted=None if trial.predicted is None else json.loads(row[7]),
        outcome=None if trial.outcome is None else json.loads(row[12]),
    )
