"""Opening a run's ledger for writing: the lock, the identity, older formats."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from autorank.ledger import locks
from autorank.ledger.creation import create, migrate, with_format
from autorank.ledger.file import LedgerFile
from autorank.ledger.identity import compare
from autorank.ledger.schema import FORMAT

LOG = logging.getLogger(__name__)


@runtime_checkable
class CarryOver(Protocol):
    """Rewrites the identity that an older version gave a search as this version would."""

    def __call__(self, identity: dict[str, str], /) -> Mapping[str, str]:
        """Today's identity of the search that has this one; what cannot be made out stays as it is."""
        ...


def open_for_writing(
    path: Path, identity: Mapping[str, str], carry_over: CarryOver | None = None
) -> LedgerFile:
    """Creates the file, or reopens it if it belongs to the same search: see `ledger.Ledger.open`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, file = locks.lock(path), None
    try:
        if not path.exists():
            create(path, identity)
        file = LedgerFile(path, lock)
        written = file.identity
        found = written if carry_over is None else dict(carry_over(written))
        compare(path, found, identity)
        if file.format != FORMAT:
            migrate(file)
            LOG.info("%s: migrated from format %s to format %s", path, file.format, FORMAT)
            file.connection.close()
            file = LedgerFile(path, lock)
        if found != written:
            with file.transaction() as connection:
                text = with_format(found)
                connection.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (text,))
        return file
    except BaseException:
        if file is not None:
            file.connection.close()
        locks.release(lock)
        raise
