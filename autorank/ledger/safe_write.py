"""Writing a file of a run's folder so that a crash cannot leave half of it."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Leaves either the old file or the whole new one, also after a crash.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "summary.json"
        >>> write_atomically(path, "{}")
        >>> path.read_text()
        '{}'
    """
    part = path.with_name(path.name + ".part")
    with part.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
