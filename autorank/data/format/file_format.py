"""Detects the format and compression of a file from its first bytes.

File names are unreliable: a browser may decompress a download and keep the ``.gz``. All code that opens a user's table
detects its format here first, so that any other file is rejected in one sentence.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HEAD = 1 << 12  # bytes that detection reads
COMPRESSIONS = {
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
}
TABLES = {"parquet": b"PAR1", "arrow": b"ARROW1"}
_EXPORT = "export it as CSV or Parquet"
# Other formats that users mistake for tables: first bytes, description, advice.
NOT_TABLES = (
    (b"PK\x03\x04", "a ZIP archive (or an Excel workbook)", "unpack it, or export it as CSV"),
    (b"\xfd7zXZ\x00", "compressed with xz", "decompress it, or use gzip or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (b"PARE", "an encrypted Parquet file", "write it without encryption"),
    (b"FEA1", "a Feather file of version 1", "write it as Parquet or as Feather version 2"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "write it as an Arrow file or as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet"),
    (b"SQLite format 3", "an SQLite database", _EXPORT),
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x80\x03", "a Python pickle", "write it as Parquet"),
    (b"\x80\x04", "a Python pickle", "write it as Parquet"),
    (b"\x80\x05", "a Python pickle", "write it as Parquet"),
    (b"%PDF", "a PDF document", _EXPORT),
    (b"<!doctype", "an HTML page", "the download went wrong: fetch the file again"),
    (b"<html", "an HTML page", "the download went wrong: fetch the file again"),
    (b"version https://git-lfs", "a Git LFS pointer", "run git lfs pull"),
    (b'{"', "JSON", _EXPORT),
    (b'[{"', "JSON", _EXPORT),
    (b"\xff\xfe\x00\x00", "UTF-32 text", "write it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "write it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "write it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "write it as UTF-8: iconv -f UTF-16 -t UTF-8"),
)
_SUFFIXES = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".lz4": "lz4",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


class FileFormat(NamedTuple):
    """The format of a table file.

    Attributes:
        content: ``text``, ``parquet`` or ``arrow``.
        compression: of text, ``gzip``, ``bz2``, ``zstd`` or ``lz4``; None if it is not compressed.
    """

    content: str
    compression: str | None = None


def detect_format(path: Path, key: str = "data.path") -> FileFormat:
    """Detects the format of a file that should be a table.

    Args:
        path: the file.
        key: the setting that named the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty file, or contents that are not a table.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "clicks.parquet"
        ...     _ = path.write_text("click,user\\n1,a\\n")
        ...     detect_format(path)
        FileFormat(content='text', compression=None)
    """
    head = _head(path, key)
    compression = _starts_with(COMPRESSIONS, head)
    if compression is not None:
        with open_text(path) as stream:
            head = stream.read(HEAD)
        if not head:
            raise ValueError(f"{path} is empty once decompressed ({compression})")
    content = _starts_with(TABLES, head)
    if content is not None and compression is not None:
        raise ValueError(
            f"{path} is a {content} file compressed with {compression}; decompress it first"
        )
    if content is None:
        _refuse_other_formats(path, head)
    return FileFormat(content or "text", compression)


def compression_of(path: Path) -> str | None:
    """The compression of a file, detected from its first bytes; None if it is not compressed."""
    with path.open("rb") as file:
        return _starts_with(COMPRESSIONS, file.read(8))


@contextmanager
def open_text(path: Path) -> Iterator[Any]:
    """An Arrow stream of a file's bytes, decompressed.

    Raises:
        ValueError: a compressed file is truncated or damaged; raised by the read that encounters it.
    """
    import pyarrow as pa

    compression = compression_of(path)
    try:
        with pa.OSFile(str(path)) as raw:
            if compression is None:
                yield raw
            else:
                with pa.CompressedInputStream(raw, compression) as stream:
                    yield stream
    except OSError as error:
        raise ValueError(f"{path}: {error}; is the file whole? Fetch it again") from error


def name_mismatch(path: Path, form: FileFormat) -> str | None:
    """One sentence if a file's name contradicts its contents, which are decisive; None if they agree."""
    suffix = path.suffix.lower()
    expected = _SUFFIXES.get(suffix)
    found = form.compression or form.content
    if expected == found:
        return None
    if expected is None and form == FileFormat("text"):
        return None
    if expected is None and form.content != "text" and suffix not in (".csv", ".tsv", ".txt"):
        return None  # the suffix implies no format
    kinds = {"text": "plain text", "parquet": "a Parquet file", "arrow": "an Arrow file"}
    kind = kinds.get(found, f"text compressed with {found}")
    return f"{path.name} is {kind}, despite its name; reading it as such"


def _head(path: Path, key: str) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; {key} must name a CSV, Parquet or Arrow file")
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not a file; {key} must name a CSV, Parquet or Arrow file"
        )
    if not path.is_file():
        raise ValueError(
            f"{path} is not a regular file; {key} must name one that can be read twice"
        )
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except PermissionError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); change its permissions"
        ) from error
    if not head:
        raise ValueError(f"{path} is empty")
    return head


def _starts_with(signs: dict[str, bytes], head: bytes) -> str | None:
    return next((name for name, sign in signs.items() if head.startswith(sign)), None)


def _refuse_other_formats(path: Path, head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise ValueError(f"{path} contains only white space")
    for sign, what, advice in NOT_TABLES:
        if head.startswith(sign) or (sign[:1] in b"<{[" and start.startswith(sign)):
            raise ValueError(f"{path} is {what}, not a supported table; {advice}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive; unpack it and name the file inside")
    if b"\n" not in head and b"\r" in head.rstrip(b"\r"):
        raise ValueError(
            f"{path}: lines end with a bare carriage return; end them with a line feed: "
            r"tr '\r' '\n'"
        )
    if b"\0" in io.BytesIO(head).readline():
        raise ValueError(
            f"{path} has NUL bytes in its first line: it is UTF-16 without a byte order mark, or not text; "
            "write it as UTF-8 text"
        )
