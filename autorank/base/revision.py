"""The revision of the code, for the provenance of results."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def git_revision(*paths: str) -> str | None:
    """Twelve digits of the commit, with a plus if tracked files differ from it; None outside a Git repository.

    Args:
        paths: count only changes in these, as Git's patterns from the repository's root. The default is all files.

    Examples:
        >>> revision = git_revision("autorank")
        >>> revision is None or 12 <= len(revision) <= 13
        True
    """
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *paths)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    """What Git prints."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
