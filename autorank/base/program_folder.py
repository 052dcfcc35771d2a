"""Where compiled programs are kept between runs; a folder that cannot be used costs a warning only.

The folder holds code that will be executed: ``JAX_COMPILATION_CACHE_DIR``, else the user's own cache folder
(``XDG_CACHE_HOME``, else ``~/.cache``), where it is created readable for the user alone.
"""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

LOG = logging.getLogger(__name__)
VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def program_folder(
    machine: str, own: Path | None = None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """The folder, which is created if it is missing; None where there is none, after a warning that says why.

    Args:
        machine: names the processor. Programs for another one must not be loaded, so each has a folder of its own,
            unless the user named the folder.
        own: a folder to use instead of the user's cache folder.
        environment: with the variables above. An empty ``JAX_COMPILATION_CACHE_DIR`` asks for no folder.

    Examples:
        >>> program_folder("processor", environment={"JAX_COMPILATION_CACHE_DIR": ""}) is None
        True
        >>> folder = tempfile.mkdtemp()
        >>> program_folder("processor", Path(folder), environment={}) == f"{folder}/processor"
        True
    """
    asked = environment.get(VARIABLE)
    if asked == "":
        return None
    if asked is not None:
        # Absolute: a job of a sweep may change the directory.
        source, folder = VARIABLE, asked if "://" in asked else str(Path(asked).absolute())
    else:
        try:
            source, base = _user_cache(environment) if own is None else ("", own)
        except (RuntimeError, KeyError) as error:  # a user without a home
            _warn(f"there is no home folder ({error})")
            return None
        folder = str(base / machine)
    if reason := why_unusable(folder):
        _warn(f"{source and source + ': '}{folder} cannot be used ({reason})")
        return None
    return folder


def why_unusable(folder: str | Path) -> str:
    """Why no file can be written in a folder, or ""; the folder is created if it is missing."""
    try:
        if "://" in str(folder):
            from etils import epath  # as JAX opens such addresses

            epath.Path(folder).mkdir(parents=True, exist_ok=True)
            return ""
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    # Storage behind an address fails in its own ways.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def _user_cache(environment: Mapping[str, str]) -> tuple[str, Path]:
    """The variable that names the user's cache folder, and our folder in it."""
    named = environment.get("XDG_CACHE_HOME", "")
    # The specification of these folders: a relative path is to be ignored.
    if Path(named).is_absolute():
        return "XDG_CACHE_HOME", Path(named) / "autorank" / "programs"
    home = environment.get("HOME")
    return "HOME", (Path(home) if home else Path.home()) / ".cache" / "autorank" / "programs"


def _warn(reason: str) -> None:
    LOG.warning(
        "compiled programs are not kept for the next run: %s; set %s to a folder that can be written to, "
        "or to nothing if none is wanted",
        reason,
        VARIABLE,
    )
