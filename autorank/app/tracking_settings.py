"""How a run is tracked: W&B's own settings decide, ours where they were written; and what must not leave this machine.

W&B reads its settings from files (``wandb/settings`` of the working folder, ``~/.config/wandb/settings``), the
environment and ``wandb.setup()``. It is asked for the outcome instead of reading any of these here.
"""

import netrc
import os
import re
import secrets
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from autorank.app.run_labels import Labels
from autorank.app.settings import TrackingConfig

SECRET = re.compile(
    r"secret|passw|passphrase|credential|(^|[._-])(api|access|private)[_-]?key|(^|[._-])token$|"
    r"(^|[._-])auth$",
    re.IGNORECASE,
)
USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
REMOVED = "[removed]"
ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's older names
TOKEN_FILE = "WANDB_IDENTITY_TOKEN_FILE"
CLOUD = "api.wandb.ai"
PROJECT = "autorank"  # where neither tracking.project nor W&B's own settings name one


class Decision(NamedTuple):
    """Whether and how to track, and why."""

    mode: str  # online, offline, shared, disabled
    why: str


def decide(mode: str, environment: Mapping[str, str] = os.environ) -> Decision:
    """What ``tracking.mode`` comes to; online needs a login, and there is never a prompt.

    ``auto`` is what W&B's own settings say. Without a login, online becomes offline.

    Raises:
        Exception: W&B refuses its own settings.
    """
    if mode == "auto" and environment.get("WANDB_DISABLED", "").lower() in (
        "1",
        "true",
        "yes",
        "on",
    ):
        return Decision("disabled", f"WANDB_DISABLED={environment['WANDB_DISABLED']}")
    if mode in ("offline", "dryrun", "disabled"):
        return Decision(ALIASES.get(mode, mode), f"tracking.mode={mode}")
    own = own_settings(environment)
    why = f"tracking.mode={mode}"
    if mode == "auto":
        mode = own.mode
        said = "W&B's settings say" if "mode" in own.model_fields_set else "W&B's default is"
        why = (
            f"WANDB_MODE={mode}" if environment.get("WANDB_MODE") == mode else f"{said} mode={mode}"
        )
    mode = ALIASES.get(mode, mode)
    if mode in ("online", "shared") and not logged_in(environment, own):
        host = urlsplit(own.base_url).netloc
        return Decision(
            "offline", f"{why}, but there is no login for {host} (wandb sync uploads it later)"
        )
    return Decision(mode, why)


def resolve_mode(mode: str, environment: Mapping[str, str] = os.environ) -> str:
    """``online``, ``offline``, ``shared`` or ``disabled``: `decide` without the reason."""
    return decide(mode, environment).mode


def own_settings(environment: Mapping[str, str] = os.environ) -> Any:
    """``wandb.Settings`` as W&B itself resolves them from its files, the environment and ``wandb.setup()``.

    W&B reads them once in a process. Where environment or folders have changed since, they are read anew.
    """
    import wandb

    environment = _readable(environment)
    folder = Path(environment.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    if environment is os.environ and _holds(wandb.setup(), folder / "settings"):
        return wandb.setup().settings
    settings = wandb.Settings()
    settings.settings_system = str(folder / "settings")
    # Of different versions of wandb.
    for name in (
        "update_from_system_settings",
        "update_from_global_config_file",
        "update_from_workspace_config_file",
    ):
        if hasattr(settings, name):
            getattr(settings, name)()
    settings.update_from_env_vars(dict(environment))
    return settings


def _holds(session: Any, settings_file: Path) -> bool:
    """Whether W&B would read the same environment and files if it did so now."""
    changed = getattr(session, "did_environment_change", None)
    if changed is not None and changed():
        return False
    read = session.settings
    root = Path(os.environ.get("WANDB_DIR") or ".").expanduser().absolute()
    return (read.settings_system, Path(read.root_dir).absolute()) == (str(settings_file), root)


def _readable(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment without what W&B refuses though its meaning is plain: empty variables, modes in capitals, and a
    token file that is missing, of which W&B's process dies even offline.

    W&B reads this process's environment by itself, so there it is mended in place.
    """
    mended = environment if environment is os.environ else dict(environment)
    assert isinstance(mended, MutableMapping)
    for name in [k for k, v in mended.items() if k.startswith("WANDB_") and not v.strip()]:
        del mended[name]
    if not Path(mended.get(TOKEN_FILE, os.devnull)).exists():
        del mended[TOKEN_FILE]
    if "WANDB_MODE" in mended:
        mended["WANDB_MODE"] = mended["WANDB_MODE"].strip().lower()
    return mended


def logged_in(environment: Mapping[str, str] = os.environ, own: Any = None) -> bool:
    """Whether there are credentials for the W&B host, in settings, environment or netrc; asks no server."""
    token = environment.get(TOKEN_FILE) or getattr(own, "identity_token_file", None)
    if environment.get("WANDB_API_KEY") or getattr(own, "api_key", None):
        return True
    if token:
        return Path(token).is_file()
    base = environment.get("WANDB_BASE_URL") or f"https://{CLOUD}" if own is None else own.base_url
    hosts = [urlsplit(base).netloc]
    if own is not None and base == type(own).model_fields["base_url"].default:
        # W&B's cloud under its older name, which is the one in most netrc files.
        hosts.append(CLOUD)
    places = [environment["NETRC"]] if environment.get("NETRC") else ["~/.netrc", "~/_netrc"]
    found = [p for p in (Path(place).expanduser() for place in places) if p.exists()]
    try:
        known = netrc.netrc(found[0]) if found else None
    except (OSError, netrc.NetrcParseError):
        return False
    logins = [known.authenticators(host) for host in hosts] if known else []
    return any(login and login[2] for login in logins)


def init_options(
    settings: TrackingConfig, own: Any, labels: Labels, known_id: str | None
) -> dict[str, Any]:
    """What ``wandb.init`` is told beside mode and config: ours where it was written, else W&B's own, else the labels.

    Args:
        settings: project, group, job type and tags count where they are not empty.
        own: W&B's settings.
        labels: what the run is called where neither says it.
        known_id: of the W&B run that is continued.
    """
    # Not from the path alone: a fresh run in the same folder is another run.
    run_id = known_id or own.run_id or new_id(labels.name)
    resume = "allow"
    if not known_id and (own.resume or own.resume_from or own.fork_from):
        run_id, resume = own.run_id, own.resume
    options = {
        "project": settings.project or own.project or PROJECT,
        "entity": own.entity,
        "group": settings.group or own.run_group or labels.group,
        "tags": list(settings.tags or own.run_tags or labels.tags) or None,
        "name": own.run_name or labels.name,
        "notes": own.run_notes,
        "job_type": settings.job_type or own.run_job_type or labels.job_type,
        "id": run_id,
        "resume": resume,
    }
    if own.sweep_id or getattr(own, "launch", False):
        # The agent has made the run and says which it is; W&B ignores anything else.
        options |= {"project": own.project, "id": own.run_id}
    return options


def new_id(name: str) -> str:
    """An id of a W&B run that nothing else has."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{secrets.token_hex(4)}"


def reason(error: Exception) -> str:
    """An exception's message without credentials."""
    listed = getattr(error, "errors", None)
    if callable(listed):  # pydantic's message quotes the values of all settings that it refuses
        found: Any = listed(include_input=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found)
        mode = os.environ.get("WANDB_MODE")
        if mode and "mode" in {e["loc"][0] for e in found if e["loc"]}:
            text += f" (WANDB_MODE={mode})"
    else:
        text = str(error) or type(error).__name__
    for name, value in os.environ.items():
        if value and SECRET.search(name):
            text = text.replace(value, REMOVED)
    return " ".join(USER_IN_URL.sub("", text).split())


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
