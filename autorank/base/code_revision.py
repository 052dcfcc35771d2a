"""The revision of the code behind a result."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Changes elsewhere, for example of recorded results, change no result.
CODE = ("autorank", "hydra_plugins", "configs", "experiments/*.py")


def code_revision() -> str | None:
    """The commit's hash, with a plus if the code differs from it; None outside a git repository.

    Examples:
        >>> len(code_revision() or "no repository") >= 12
        True
    """
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    call = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
