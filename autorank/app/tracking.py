"""Weights & Biases as a mirror of the ledger: never a prompt, never a wait, never a reason to stop.

This module finds or starts the W&B run; `mirror` says what is copied into it. The run's id is kept in the ledger, so
that a resumed search continues the same W&B run. W&B's own settings decide where ours do not.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autorank.app.mirror import IDENTITY, Mirror, define_axes, finish, sync
from autorank.app.run_labels import Labels
from autorank.app.settings import TrackingConfig
from autorank.app.tracking_settings import (
    Decision,
    decide,
    init_options,
    own_settings,
    reason,
    resolve_mode,
    scrub,
)
from autorank.base.program_folder import why_unusable
from autorank.ledger.ledger import Ledger

LOG = logging.getLogger(__name__)
WAIT_SECONDS = 20  # for the server at the start and at the end, then the mirror goes offline


QUIET: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "init_timeout": WAIT_SECONDS,
    "finish_timeout": WAIT_SECONDS,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class Tracker(NamedTuple):
    """A mirror; both functions do nothing when tracking is off, and never raise."""

    sync: Callable[[], None]  # copies trials and rounds that the ledger has gained
    finish: Callable[[Path, Mapping[str, Any]], None]  # run folder, summary; ends the W&B run


OFF = Tracker(lambda: None, lambda folder, summary: None)


def start_tracking(
    settings: TrackingConfig,
    folder: Path,
    ledger: Ledger,
    config: Mapping[str, Any],
    labels: Labels | None = None,
) -> Tracker:
    """Starts or continues the W&B run of a run folder; if that fails, the tracker does nothing.

    One line of the log says what was decided, and why.

    Args:
        settings: mode, project, group, tags; what is not written is W&B's own (`autorank.app.tracking_settings`).
        folder: the run's; W&B's own files go to ``<folder>/wandb``, or where ``WANDB_DIR`` says.
        ledger: open for writing; keeps the W&B run's id and what is mirrored.
        config: the resolved settings; what looks like a secret is left out.
        labels: group, job type, tags and name where nobody says them; None has the folder's name alone.
    """
    labels = labels or Labels("", "", (), folder.resolve().name)
    try:
        decision = decided(settings)
        if decision.mode == "disabled":
            LOG.info("W&B is off: %s", decision.why)
            return OFF
        mirror = _start(settings, decision, folder, ledger, config, labels)
    except Exception as error:  # noqa: BLE001 - any failure of the mirror, the search must go on
        LOG.warning("W&B could not start (%s); the run goes on without it", reason(error))
        return OFF

    def guarded(action: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            try:
                action(mirror, ledger, *arguments)
            except Exception as error:  # noqa: BLE001 - as above
                LOG.warning("W&B: %s; the ledger has everything", reason(error))

        return call

    return Tracker(guarded(sync), guarded(finish))


STARTED: set[str] = set()  # ids of the W&B runs that were started here


def decided(settings: TrackingConfig) -> Decision:
    """Whether and how to track, also by what a run that is active in this process says."""
    decision = decide(settings.mode)
    if settings.mode != "auto" or decision.mode == "disabled":
        return decision
    import wandb

    if wandb.run is not None and wandb.run.settings.mode == "disabled":
        return Decision("disabled", "so is the run that is active in this process")
    return decision


def wandb_folder(folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where W&B's own files go: into ``WANDB_DIR``, or, where that is not set or cannot be used, the run's folder."""
    asked = environment.get("WANDB_DIR")
    if not asked:
        return folder
    if reason := why_unusable(asked):
        LOG.warning(
            "WANDB_DIR=%s cannot be used (%s); W&B's files go to %s. Name a folder that can be written to",
            asked,
            reason,
            folder / "wandb",
        )
        return folder
    return Path(asked)


def _start(
    settings: TrackingConfig,
    decision: Decision,
    folder: Path,
    ledger: Ledger,
    config: Mapping[str, Any],
    labels: Labels,
) -> Mirror:
    active = active_run()
    config = dict(config) | {IDENTITY: dict(ledger.file.identity)}
    if active is not None and _is_meant(active, settings):
        run, why = active, "it was active in this process"
        run.config.update({"autorank": scrub(config)}, allow_val_change=True)
    else:
        known = ledger.get("wandb_id")
        run, why = new_run(settings, decision, folder, known, config, labels, beside=active)
        define_axes(run)
    if ledger.get("wandb_id") != run.id:
        # What another run has been told, this one has not.
        for key, value in (("wandb_id", run.id), ("wandb_trials", []), ("wandb_rounds", 0)):
            ledger.put(key, value)
    place = "/".join(part for part in (run.entity, run.project) if part)
    mode, where = run.settings.mode, run.settings.wandb_dir
    LOG.info("W&B %s run %s of project %s in %s: %s", mode, run.id, place, where, why)
    return Mirror(run, run is not active)


def active_run() -> Any:
    """The W&B run that somebody else has started in this process; None without one."""
    import wandb

    active = wandb.run
    if active is not None and active.id in STARTED:  # of a search that failed in this process
        active.finish(exit_code=1)
        return None
    return active


def _is_meant(run: Any, settings: TrackingConfig) -> bool:
    """Whether what was written in our settings agrees with a run that somebody else has started."""
    modes = {settings.mode, resolve_mode(settings.mode)} - {"auto"}
    return (settings.mode == "auto" or run.settings.mode in modes) and settings.project in (
        None,
        run.project,
    )


def new_run(
    settings: TrackingConfig,
    decision: Decision,
    folder: Path,
    known: str | None,
    config: Mapping[str, Any],
    labels: Labels,
    beside: Any = None,
) -> tuple[Any, str]:
    """A W&B run, and why it is as it is.

    Args:
        settings, decision: whether and how to track.
        folder: W&B's own files go below it, unless ``WANDB_DIR`` says where.
        known: the id of a run that is continued.
        config: its settings; what looks like a secret is left out.
        labels: what it is called where nobody says it.
        beside: a run that is active and not meant.
    """
    import wandb

    own = own_settings()
    if own.relogin:
        wandb.setup(settings=wandb.Settings(relogin=False))  # it would ask for a key
    known = None if beside is not None and beside.id == known else known
    options = init_options(settings, own, labels, known)
    options["dir"] = str(wandb_folder(folder))
    # Older versions of wandb refuse settings that they do not know.
    quiet = {k: v for k, v in QUIET.items() if k in wandb.Settings.model_fields}
    if beside is not None:
        options["reinit"] = "create_new"
    why = decision.why + (f", in sweep {own.sweep_id}" if own.sweep_id else "")

    def init(mode: Any) -> Any:
        # A new object each time: wandb writes into it.
        settings = wandb.Settings(**quiet)
        run = wandb.init(mode=mode, config=scrub(config), settings=settings, **options)
        STARTED.add(run.id)
        return run

    try:
        return init(decision.mode), why
    except Exception as error:  # noqa: BLE001 - no network, expired key: keep the run offline
        if decision.mode == "offline":
            raise
        LOG.warning("W&B cannot be reached (%s); the run is kept offline", reason(error))
        if beside is not None:
            # W&B's process serves that run, and takes the id of ours for one that is in use.
            options["id"] = init_options(settings, own, labels, None)["id"]
        else:
            with contextlib.suppress(Exception, SystemExit):
                wandb.teardown()
        return init("offline"), f"{why}, but it could not be reached"
