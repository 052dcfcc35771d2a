"""The ledger of a run: every proposal and every result, in one SQLite file, as it happens.

It is the only state of a search: resuming, analysing and reporting need nothing else. One writer at a time, by a lock
that the kernel releases when its process dies. Columns of JSON are strict: see `strict_json`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autorank.ledger.file import LedgerFile, open_for_reading
from autorank.ledger.opening import CarryOver, open_for_writing
from autorank.ledger.strict_json import dumps
from autorank.ledger.trial import COLUMNS, Trial, proposal_rows, result_row, trial_of

PROPOSE = """INSERT INTO trials (stage, round, rung, position, config, seed, fidelity, predicted,
    proposed_at, status, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'proposed', '')"""
FINISH = """UPDATE trials SET status = ?, reason = ?, quality = ?, cost = ?, outcome = ?,
    finished_at = ? WHERE id = ? AND status = 'proposed'"""


class Ledger:
    """Trials, records and facts of one run; a context manager.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "trials.db"
        >>> with Ledger.open(path, identity={"space": "abc", "seed": "0"}) as ledger:
        ...     first, second = ledger.propose("round", 0, [[0, 1], [2, 0]], seeds=[0, 0], fidelity=0.5)
        ...     done = ledger.finish(first.id, {"curve": [[0.7]]}, quality=-0.3, cost=0.1)
        >>> with Ledger.read(path) as ledger:
        ...     [(t.config, t.status, t.quality) for t in ledger.trials("round")]
        [((0, 1), 'finished', -0.3), ((2, 0), 'proposed', None)]
    """

    def __init__(self, file: LedgerFile) -> None:
        self.file = file

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    @classmethod
    def open(
        cls, path: Path, identity: Mapping[str, str], carry_over: CarryOver | None = None
    ) -> "Ledger":
        """Creates the ledger, or reopens it for writing; one of an older format is migrated first.

        Args:
            path: usually ``<run folder>/trials.db``.
            identity: what makes the search this one: fingerprints of space, data, settings; seed.
            carry_over: applied to the ledger's identity before it is compared; a ledger that then
                agrees is given the new one.

        Raises:
            LedgerMismatch: an item of the identity differs from the ledger's.
            RunInUse: another living process has it open for writing.
            LedgerCorrupt: the file is damaged.
            LedgerFull: no room to create or to migrate it.
        """
        return cls(open_for_writing(Path(path), identity, carry_over))

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Opens for reading only, also while a search is writing, in any format.

        Raises:
            FileNotFoundError: there is none.
            LedgerCorrupt: the file is damaged.
        """
        return cls(open_for_reading(Path(path)))

    def close(self) -> None:
        """Closes the file and releases the run; calling it again does nothing."""
        self.file.close()

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
        rung: int = 0,
    ) -> list[Trial]:
        """Writes a batch of proposals, all or none, and returns their rows.

        Args:
            stage: where in the search.
            round: number of the batch within the stage.
            configs: int ``[n, k]``.
            seeds: one for each configuration.
            fidelity: share of the training rows.
            predicted: ``[n, 2]`` or None; NaN becomes null.
            rung: how many times the configurations were promoted before.

        Raises:
            ValueError: lengths differ, or this batch was proposed before.
            LedgerFull: no room; the ledger is as before.
        """
        batch = (stage, int(round), int(rung))
        rows = proposal_rows(batch, configs, seeds, fidelity, predicted)
        with self.file.transaction() as connection:
            query = "SELECT count(*) FROM trials WHERE stage = ? AND round = ? AND rung = ?"
            if connection.execute(query, batch).fetchone()[0]:
                raise ValueError(f"{stage} {round} is in the ledger already; read it with trials()")
            connection.executemany(PROPOSE, rows)
        return self.trials(*batch)

    def finish(
        self, trial_id: int, outcome: Mapping[str, Any], quality: float | None, cost: float | None
    ) -> Trial:
        """Writes a result and returns the row; one without a finite quality is a failed trial.

        Raises:
            ValueError: no such trial, or it has its result already.
            LedgerFull: no room; the ledger is as before.
        """
        values = (*result_row(outcome, quality, cost), int(trial_id))
        with self.file.transaction() as connection:
            if connection.execute(FINISH, values).rowcount != 1:
                raise ValueError(f"trial {trial_id} does not wait for a result")
        return self._select({"id": int(trial_id)})[0]

    def trials(
        self, stage: str | None = None, round: int | None = None, rung: int | None = None
    ) -> list[Trial]:
        """All rows, those of a stage, of a round or of a rung, in the order of proposal."""
        wanted = {"stage": stage, "round": round, "rung": rung}
        return self._select({name: value for name, value in wanted.items() if value is not None})

    def _select(self, wanted: Mapping[str, Any]) -> list[Trial]:
        where = f" WHERE {' AND '.join(f'{name} = ?' for name in wanted)}" if wanted else ""
        query = f"SELECT {COLUMNS} FROM {self.file.trials}{where} ORDER BY id"
        return [trial_of(row) for row in self.file.fetch(query, tuple(wanted.values()))]

    # --- records and facts ------------------------------------------------------------------------

    def record(self, kind: str, key: str, payload: Any) -> None:
        """Appends a record; the first one under ``(kind, key)`` stays: repeating is harmless."""
        with self.file.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO records (kind, key, payload) VALUES (?, ?, ?)",
                (kind, str(key), dumps(payload)),
            )

    def records(self, kind: str) -> list[Any]:
        """Payloads of one kind, oldest first."""
        rows = self.file.fetch("SELECT payload FROM records WHERE kind = ? ORDER BY id", (kind,))
        return [json.loads(payload) for (payload,) in rows]

    def put(self, key: str, value: Any) -> None:
        """Sets a fact about the run, replacing what was there."""
        with self.file.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, dumps(value)))

    def get(self, key: str) -> Any:
        """A fact about the run; None where there is none."""
        rows = self.file.fetch("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(rows[0][0]) if rows else None
