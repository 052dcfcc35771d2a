"""The folder of unfinished work next to a prepared folder, from which an interrupted run resumes."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autorank.data.prepare.staging import write_atomically


@dataclass(frozen=True)
class WorkFolder:
    """Staged parts, vocabularies, and the prepared folder as far as it is written."""

    path: Path

    @property
    def staged(self) -> Path:
        """The staged parts."""
        return self.path / "parts"

    @property
    def merged(self) -> Path:
        """The vocabularies, with the ids of the values of each part."""
        return self.path / "merged"

    @property
    def out(self) -> Path:
        """The prepared folder, which is renamed when it is complete."""
        return self.path / "out"

    def open(self, made_from: dict[str, Any]) -> None:
        """Keeps what an earlier run left if it was made from the same; clears anything else."""
        record = self.path / "made_from.json"
        try:
            same = json.loads(record.read_text("utf-8")) == made_from
        except (FileNotFoundError, ValueError):
            same = False
        if not same:
            self.remove()
            self.path.mkdir()
            write_atomically(record, json.dumps(made_from))
        for folder in (self.staged, self.merged, self.out):
            folder.mkdir(exist_ok=True)

    def remove(self) -> None:
        """Removes the folder, if it exists."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def removed_afterwards(self, *, resumable: bool) -> Iterator[None]:
        """Removes the folder after the block, unless a later run can resume from it.

        It can if the block is interrupted, or if ``resumable`` and the block fails with an `OSError`, for example a
        full disk.
        """
        try:
            yield
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            explained = self._full_disk_error(resumable) if is_full else error
            if not resumable:
                self.remove()
            if is_full:
                raise explained from error
            raise
        except Exception:
            self.remove()
            raise
        self.remove()

    def _full_disk_error(self, resumable: bool) -> OSError:
        used = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.path).free
        next_run = "which resumes there" if resumable else "from the start"
        return OSError(
            errno.ENOSPC,
            f"no space left on the disk: {self.path} holds {used / 1e9:,.3f} GB of unfinished work and "
            f"{free / 1e9:,.3f} GB are free. Free some space and run it again, {next_run}; or remove "
            "that folder, and write data.folder=... to prepare elsewhere",
        )
