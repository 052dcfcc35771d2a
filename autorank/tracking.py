"""Weights & Biases as a mirror of the ledger: never a prompt, never a wait, never a reason to stop.

The ledger is the truth. ``sync`` copies what it has gained since the last call, ``finish`` adds
curves, table, figures and summary. The W&B run's id is kept in the ledger, so that a resumed search
continues the same W&B run.
"""

import logging
import math
import netrc
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from autorank import rungs
from autorank.config import TrackingConfig
from autorank.ledger import Ledger, Trial
from autorank.program_folder import why_unusable
from autorank.run_folder import curve_of, read_run, values_of

LOG = logging.getLogger(__name__)
SECRET = re.compile(
    r"secret|passw|passphrase|credential|(^|[._-])(api|access|private)[_-]?key|(^|[._-])token$|"
    r"(^|[._-])auth$",
    re.IGNORECASE,
)
USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
REMOVED = "[removed]"
LISTS = (
    "front",
    "finalists",
)  # of a summary, too long for W&B's; its tables and the report have them
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
    settings: TrackingConfig, folder: Path, ledger: Ledger, config: Mapping[str, Any]
) -> Tracker:
    """Starts or continues the W&B run of a run folder; if that fails, the tracker does nothing.

    Args:
        settings: mode (auto, online, offline, disabled), project, group, tags.
        folder: the run's; W&B's own files go to ``<folder>/wandb``, or to ``WANDB_DIR``.
        ledger: open for writing; keeps the W&B run's id and what is mirrored.
        config: the resolved settings; what looks like a secret is left out.
    """
    mode = resolve_mode(settings.mode)
    if mode == "disabled":
        return OFF
    try:
        run = _start(settings, mode, folder, ledger, config)
    except Exception as error:  # noqa: BLE001 - any failure of the mirror, the search must go on
        LOG.warning("W&B could not start (%s); the run goes on without it", error)
        return OFF
    LOG.info("W&B %s run %s in %s", mode, run.id, run.dir)

    def guarded(action: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            try:
                action(run, ledger, *arguments)
            except Exception as error:  # noqa: BLE001 - as above
                LOG.warning("W&B: %s; the ledger has everything", error)

        return call

    return Tracker(guarded(_sync), guarded(_finish))


def resolve_mode(mode: str, environment: Mapping[str, str] = os.environ) -> str:
    """``online``, ``offline`` or ``disabled``; online needs a login, and there is never a prompt.

    ``auto`` follows ``WANDB_MODE`` if that is set, else it is online for who is logged in.
    """
    if mode == "auto":
        mode = environment.get("WANDB_MODE", "") or "online"
    if mode == "online" and not logged_in(environment):
        LOG.info("W&B: not logged in, the run is kept offline (wandb sync uploads it)")
        return "offline"
    return mode if mode in ("online", "offline") else "disabled"


def logged_in(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a key for the W&B host, in the environment or in netrc; asks no server."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    path = Path(environment.get("NETRC") or Path.home() / ".netrc")
    try:
        return host in netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def scrub(value: Any) -> Any:
    """The settings without what looks like a secret, by key, or as a user in an address."""
    if isinstance(value, Mapping):
        return {
            str(k): REMOVED if SECRET.search(str(k)) and v is not None else scrub(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [scrub(v) for v in value]
    return USER_IN_URL.sub("", value) if isinstance(value, str) else value


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
    settings: TrackingConfig, mode: str, folder: Path, ledger: Ledger, config: Mapping[str, Any]
) -> Any:
    import wandb

    run_id = ledger.get("wandb_id")
    if run_id is None:
        # Not from the path alone: a fresh run in the same folder is another run.
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name)[:40]
        run_id = f"{stem}-{secrets.token_hex(4)}"
        ledger.put("wandb_id", run_id)
    # Older versions of wandb refuse settings that they do not know.
    quiet = {k: v for k, v in QUIET.items() if k in wandb.Settings.model_fields}
    options: dict[str, Any] = {
        "project": settings.project,
        "group": settings.group,
        "tags": list(settings.tags) or None,
        "name": folder.resolve().name,
        "config": scrub(config),
        "dir": str(wandb_folder(folder)),
        "id": run_id,
        "resume": "allow",
        "settings": wandb.Settings(**quiet),
    }
    try:
        return wandb.init(mode=mode, **options)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # noqa: BLE001 - no network, expired key: keep the run offline
        if mode != "online":
            raise
        LOG.warning("W&B cannot be reached (%s); the run is kept offline", error)
        return wandb.init(mode="offline", **options)


def _sync(run: Any, ledger: Ledger) -> None:
    done = [t for t in ledger.trials() if t.status != "proposed"]
    known = set(ledger.get("wandb_trials") or [])
    new = sorted((t for t in done if t.id not in known), key=lambda t: (t.finished_at or 0.0, t.id))
    for trial in new:
        known.add(trial.id)
        # The step is the number of ended trials: it rises also over a resume.
        lowest = rungs.best((t for t in done if t.id in known), ledger.records(rungs.KIND))
        run.log(_trial_values(trial, lowest), step=len(known))
    rounds, seen = ledger.records("policy"), ledger.get("wandb_rounds") or 0
    for record in rounds[seen:]:
        run.log(_round_values(record), step=max(1, len(known)))
    if new:
        ledger.put("wandb_trials", sorted(known))
    if len(rounds) > seen:
        ledger.put("wandb_rounds", len(rounds))


def _trial_values(trial: Trial, lowest: float | None) -> dict[str, Any]:
    values = {
        "trial/id": trial.id,
        "trial/failed": int(trial.status == "failed"),
        "trial/fidelity": trial.fidelity,
        f"trial/{'ne' if trial.stage == 'seed_noise' else 'ne_gain_percent'}": trial.quality,
        "trial/flops_ratio": None if trial.cost is None else math.exp(trial.cost),
        "trial/seconds": (trial.outcome or {}).get("seconds"),
        "search/best_ne_gain_percent": lowest,
    }
    return {name: value for name, value in values.items() if value is not None}


def _round_values(record: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np

    values = {"policy/round": record.get("round")}
    for name in ("entropy", "reward", "distinct"):
        array = np.array(record.get(name) if record.get(name) is not None else [], float)
        last = array[..., -1] if array.ndim > 1 else array
        if np.isfinite(last).any():
            values[f"policy/{name}"] = float(np.nanmean(last))
    return values


def _finish(run: Any, ledger: Ledger, folder: Path, summary: Mapping[str, Any]) -> None:
    import wandb

    try:
        _sync(run, ledger)
        left = read_run(folder)
        names = [d["name"] for d in left.decisions]
        head = ["id", "stage", "round", "status", "quality", "flops_ratio", "fidelity", "seed"]
        trials = wandb.Table(columns=[*head, "reason", *names])
        curves = wandb.Table(columns=["id", "stage", "window", "ne"])
        for t in left.trials:
            values = values_of(left.decisions, t.config) if names else {}
            ratio = None if t.cost is None else math.exp(t.cost)
            row = [t.id, t.stage, t.round, t.status, t.quality, ratio, t.fidelity, t.seed]
            texts = [None if n not in values else str(values[n]) for n in names]
            trials.add_data(*row, t.reason, *texts)
            for window, ne in enumerate(curve_of(left, t)):
                if math.isfinite(ne):
                    curves.add_data(t.id, t.stage, window, float(ne))
        run.log({"trials": trials, "curves": curves})
        pictures = sorted((folder / "figures").glob("*.png"))
        run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures})
        run.summary.update(_flat({k: v for k, v in summary.items() if k not in LISTS}))
    finally:
        run.finish()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat
