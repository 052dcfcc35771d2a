"""Results that jobs leave in files until the ledger has them, so that a result outlives its driver.

Workers import this too: nothing heavy here.
"""

import contextlib
import hashlib
import json
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.base.result import Result, read_result

FOLDER = ".trials"  # inside hydra.sweep.dir
LOG = logging.getLogger(__name__)


class KeptResults(NamedTuple):
    """The files of one ledger's jobs."""

    folder: str
    ledger: str  # the ledger's token: a result of another ledger is ignored
    driver: str  # the driver's token

    def claim(self) -> None:
        """Makes this driver the current one: jobs of earlier drivers that have not begun will not run.

        Raises:
            OSError: the folder cannot be written to.
        """
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(self.folder) / "driver", {"driver": self.driver})

    def is_superseded(self) -> bool:
        """Whether a later driver has claimed the folder."""
        try:
            current = json.loads((Path(self.folder) / "driver").read_text())["driver"]
        except (OSError, ValueError):
            return False
        return current != self.driver

    def lock_of(self, name: str) -> Path:
        """The file that a job locks while it runs."""
        return Path(self.folder) / f"{name}.lock"

    def found(self, name: str) -> Result | None:
        """The result that a job left behind; None if there is none, or not one of this ledger."""
        try:
            kept = json.loads((Path(self.folder) / f"{name}.json").read_text())
            if kept["ledger"] != self.ledger:
                return None
            if kept["failed"]:
                return Result(None, None, str(kept["failed"]))
            value = kept["quality"] if kept["cost"] is None else (kept["quality"], kept["cost"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        result = read_result(value)
        return None if result.failed else result

    def keep(self, name: str, result: Result) -> None:
        """Writes a job's result; logs a warning if the file cannot be written."""
        kept = {"ledger": self.ledger, "quality": result.quality, "cost": result.cost}
        try:
            write_json(Path(self.folder) / f"{name}.json", kept | {"failed": result.failed})
        except OSError as error:  # a full disk: the driver may receive the result all the same
            LOG.warning("cannot keep the job's result in %s: %s", self.folder, error)

    def forget(self, name: str) -> None:
        """Removes a job's files once its result is in the ledger."""
        for end in ("json", "lock"):
            with contextlib.suppress(OSError):
                (Path(self.folder) / f"{name}.{end}").unlink()


def job_name(overrides: Sequence[str]) -> str:
    """A job's name among the files, made from its overrides, which no two trials of a sweep share.

    Examples:
        >>> job_name(["x=1", "hydra.job.name=a"]) == job_name(["x=1"]) != job_name(["x=2"])
        True
    """
    text = json.dumps([o for o in overrides if not o.lstrip("+~").startswith("hydra")])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes the file at once: a reader sees the old content or the new one."""
    part = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    part.write_text(json.dumps(value))
    os.replace(part, path)
