"""Downloads raw files: tries several URLs, resumes, verifies checksums, and extracts archives safely."""

import hashlib
import logging
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from autorank.data.format.source import Progress

LOG = logging.getLogger(__name__)
READ_BYTES = 1 << 20  # bytes read at a time
ATTEMPTS = 3  # per URL
REPORT_SECONDS = 5.0


class DownloadError(RuntimeError):
    """No URL provided the file; the message tells how to download it by hand."""


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    progress: Progress = LOG.info,
    timeout: float = 20.0,
) -> Path:
    """Downloads the first URL that provides the right file to ``path``, unless it is there already.

    Partial downloads are kept in ``<path>.part``, and a later attempt or call requests only the rest (HTTP Range). The
    file appears under its name only when it is complete and verified.

    Args:
        urls: tried in order.
        path: where the file is stored.
        sha256, md5: expected checksum, hexadecimal; at least one is needed.
        progress: receives progress lines.
        timeout: seconds without data, while connecting or later, after which an attempt is abandoned.

    Raises:
        ValueError: neither checksum is given.
        DownloadError: no URL provided the right file.
    """
    if sha256 is None and md5 is None:
        raise ValueError(f"{path.name}: give sha256 or md5, so that the content can be checked")
    if path.is_file() and _wrong(path, sha256, md5) is None:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failures: list[str] = []
    for url in urls:
        for _ in range(ATTEMPTS):
            try:
                _download_rest(url, part, progress, timeout)
            except (OSError, urllib.error.URLError, ValueError) as error:
                failures.append(f"{url}: {error}")
                if not _may_succeed_later(error):
                    break
                continue
            wrong = _wrong(part, sha256, md5)
            if wrong is None:
                part.replace(path)
                return path
            # The first part may be outdated, so the next attempt starts from the beginning.
            part.unlink()
            failures.append(f"{url}: {wrong}")
    tried = "\n  ".join(dict.fromkeys(failures))
    raise DownloadError(
        f"could not download {path.name}:\n  {tried}\nDownload it by hand from {urls[0]} and put it at "
        f"{path}"
    )


def _download_rest(url: str, part: Path, progress: Progress, timeout: float) -> None:
    """Appends the missing bytes of ``url`` to ``part``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            # The part is already complete, or too long; the checksum tells which.
            if error.code == 416 and have:
                return
            raise
    with response:
        resumed = response.status == 206
        expected = response.headers.get("Content-Length")
        total = None if expected is None else int(expected) + (have if resumed else 0)
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, have if resumed else 0, total, part.stem, progress)
    size = part.stat().st_size
    if total is not None and size < total:
        raise ConnectionError(f"connection closed after {size:,} of {total:,} bytes")


def _copy(
    response: Any, file: Any, done: int, total: int | None, name: str, progress: Progress
) -> None:
    began = last = time.monotonic()
    arrived = 0
    while content := response.read1(READ_BYTES):
        file.write(content)
        arrived += len(content)
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            last = now
            of = "" if total is None else f" of {total / 1e6:,.1f}"
            rate = arrived / 1e6 / (now - began)
            progress(f"{name}: {(done + arrived) / 1e6:,.1f}{of} MB ({rate:,.1f} MB/s)")


def _may_succeed_later(error: Exception) -> bool:
    """Whether to retry: after a broken connection or a server error, but not if the URL is refused or not found."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return not isinstance(error, urllib.error.URLError) or isinstance(error.reason, TimeoutError)


def _wrong(path: Path, sha256: str | None, md5: str | None) -> str | None:
    """Which checksum of a file is wrong, or None."""
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(
                file, lambda name=name: hashlib.new(name, usedforsecurity=False)
            )
        if digest.hexdigest() != expected:
            return f"{name} is {digest.hexdigest()}, expected {expected}"
    return None


def extract(archive: Path, folder: Path) -> None:
    """Extracts a .zip or .tar(.gz, .bz2, .xz) into ``folder``, after checking all members.

    Raises:
        ValueError: a member with an absolute path or "..", a link or device, or a repeated name; or not such an
        archive.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            # The upper half of the attributes is the Unix mode; 0o120000 marks a link.
            links = [m.filename for m in members if (m.external_attr >> 16) & 0o170000 == 0o120000]
            require_safe_names([m.filename for m in members], links, archive)
            for member in members:
                if not member.is_dir():
                    with file.open(member) as content:
                        _write(content, folder / member.filename)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            entries = file.getmembers()
            special = [m.name for m in entries if not (m.isfile() or m.isdir())]
            require_safe_names([m.name for m in entries], special, archive)
            for entry in entries:
                content = file.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    with content:
                        _write(content, folder / entry.name)
    else:
        raise ValueError(f"{archive} is neither a zip nor a tar archive; download it again")


def create_folder(target: Path, fill: Callable[[Path], None], inside: str = ".") -> None:
    """Creates ``target`` atomically: ``fill`` writes a temporary folder, and its subfolder ``inside`` is renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fill(Path(scratch) / "new")
        shutil.rmtree(target, ignore_errors=True)
        (Path(scratch) / "new" / inside).rename(target)


def _write(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file)


def require_safe_names(names: list[str], special: list[str], archive: Path) -> None:
    """Rejects an archive that could write outside its folder.

    Args:
        names: paths of all members.
        special: those that are links or devices.
        archive: named in messages.

    Raises:
        ValueError: a link or device, a path that leads outside, or a repeated path.

    Examples:
        >>> require_safe_names(["data/log.csv", "data/../../.bashrc"], [], Path("log.zip"))
        Traceback (most recent call last):
            ...
        ValueError: log.zip wants to write to 'data/../../.bashrc'; it is not the expected file
    """
    if special:
        raise ValueError(
            f"{archive} holds links or devices ({special[0]}); it is not the expected file"
        )
    seen: set[PurePosixPath] = set()
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise ValueError(f"{archive} wants to write to {name!r}; it is not the expected file")
        if path in seen:
            raise ValueError(f"{archive} holds {name!r} twice; it is not the expected file")
        seen.add(path)
