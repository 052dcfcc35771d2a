"""Cancels what the launcher has started and what still runs when the driver stops (Ctrl-C, SIGTERM, an error)."""

import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Any

from hydra_plugins.autorank_sweeper._launchers import is_pool, launcher_name

LOG = logging.getLogger(__name__)
SUBMITIT = ("LocalLauncher", "SlurmLauncher")


class StartedJobs:
    """The jobs of this driver. Create it before the launcher starts anything: jobs that are older are left alone."""

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher
        self._before = set(self._submitted())

    def cancel(self) -> None:
        """Ends the launcher's jobs. An error is only logged, so that it does not hide why the driver stops."""
        try:
            self._cancel()
        except Exception as error:
            LOG.warning("could not cancel the running jobs: %s", error)

    def _cancel(self) -> None:
        name = launcher_name(self.launcher)
        if is_pool(self.launcher):
            # joblib itself would wait for its jobs; so would asking for the executor without reuse=True.
            from joblib.externals.loky import get_reusable_executor  # pyright: ignore[reportMissingImports]

            pool = get_reusable_executor(reuse=True)  # pyright: ignore[reportArgumentType]
            pool.shutdown(wait=False, kill_workers=True)
        elif name == "AutorankRayLauncher":
            self.launcher.cancel()
        elif name in SUBMITIT:
            left = [f for f in self._submitted() if f not in self._before and not _has_result(f)]
            for file in left:
                _cancel_submitit(name, file)
            if left:
                LOG.warning("cancelled %d submitit jobs that had not ended", len(left))

    def _submitted(self) -> list[Path]:
        """submitit's files ``<submitit_folder>/<job id>_submitted.pkl``; only their names are used."""
        if launcher_name(self.launcher) not in SUBMITIT:
            return []
        from submitit.core.utils import JobPaths  # pyright: ignore[reportMissingImports]

        root = JobPaths.get_first_id_independent_folder(self.launcher.params["submitit_folder"])
        return sorted(root.rglob("*_submitted.pkl")) if root.is_dir() else []


def _job_id(file: Path) -> str:
    return file.name.removesuffix("_submitted.pkl")


def _has_result(file: Path) -> bool:
    return any(file.parent.glob(f"{_job_id(file)}_*_result.pkl"))


def _cancel_submitit(launcher: str, file: Path) -> None:
    if launcher == "SlurmLauncher":
        from submitit import SlurmJob  # pyright: ignore[reportMissingImports]

        SlurmJob(folder=file.parent, job_id=_job_id(file)).cancel(check=False)
        return
    # The id of a local job is the process id of its controller, which ends its task when it is interrupted.
    process = Path("/proc") / _job_id(file) / "cmdline"
    with contextlib.suppress(OSError, ValueError):
        if b"submitit.local._local" in process.read_bytes():
            os.kill(int(_job_id(file)), signal.SIGINT)
