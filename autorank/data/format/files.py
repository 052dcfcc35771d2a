"""What a file is, by its first bytes: names lie (a browser unpacks a download and leaves the ``.gz``).

Everything that opens a user's table asks here first, so that a file that is no table is refused in one sentence.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HEAD = 1 << 12  # bytes looked at
PACKINGS = {
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
}
TABLES = {"parquet": b"PAR1", "arrow": b"ARROW1"}
# What else is met where a table should be: the first bytes, what they say, what to do.
_EXPORT = "export it as CSV or Parquet"
OTHERS = (
    (b"PK\x03\x04", "a ZIP archive (or an Excel workbook)", "unpack it, or export it as CSV"),
    (b"\xfd7zXZ\x00", "packed with xz", "unpack it, or pack it with gzip or zstd"),
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


class FileForm(NamedTuple):
    """How a file must be read."""

    content: str  # text, parquet or arrow
    packing: str | None = None  # of text: gzip, bz2, zstd or lz4


def form_of(path: Path, key: str = "data.path") -> FileForm:
    """What is in a file that should be a table.

    Args:
        key: the setting that named the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty file, content that is no table.
    """
    head = _head(path, key)
    packing = _first(PACKINGS, head)
    if packing is not None:
        with open_text(path) as stream:
            head = stream.read(HEAD)
        if not head:
            raise ValueError(f"{path} is empty once it is unpacked ({packing})")
    content = _first(TABLES, head)
    if content is not None and packing is not None:
        raise ValueError(f"{path} is a {content} file packed with {packing}; unpack it first")
    if content is None:
        _refuse_others(path, head)
    return FileForm(content or "text", packing)


def packing_of(path: Path) -> str | None:
    """How a file is packed, by its first bytes."""
    with path.open("rb") as file:
        return _first(PACKINGS, file.read(8))


@contextmanager
def open_text(path: Path) -> Iterator[Any]:
    """An Arrow stream of a file's bytes, unpacked.

    Raises:
        ValueError: a packed file that breaks off or is damaged, whenever that is met.
    """
    import pyarrow as pa

    packing = packing_of(path)
    try:
        with pa.OSFile(str(path)) as raw:
            if packing is None:
                yield raw
            else:
                with pa.CompressedInputStream(raw, packing) as stream:
                    yield stream
    except OSError as error:
        raise ValueError(f"{path}: {error}; is the file whole? Fetch it again") from error


def surprise(path: Path, form: FileForm) -> str | None:
    """One sentence where the name of a file says something else than its content, which decides."""
    said = _SUFFIXES.get(path.suffix.lower())
    found = form.packing or form.content
    if said == found or (said is None and form.content == "text" and form.packing is None):
        return None
    if (
        said is None
        and form.content != "text"
        and path.suffix.lower() not in (".csv", ".tsv", ".txt")
    ):
        return None  # a name that says nothing
    what = {"text": "plain text", "parquet": "a Parquet file", "arrow": "an Arrow file"}
    return f"{path.name} is {what.get(found, f'text packed with {found}')}, whatever its name says; read as such"


def _head(path: Path, key: str) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; {key} must name a CSV, Parquet or Arrow file")
    if not path.exists():
        raise FileNotFoundError(f"{path} is no file; {key} must name a CSV, Parquet or Arrow file")
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


def _first(signs: dict[str, bytes], head: bytes) -> str | None:
    return next((name for name, sign in signs.items() if head.startswith(sign)), None)


def _refuse_others(path: Path, head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise ValueError(f"{path} holds nothing but white space")
    for sign, what, advice in OTHERS:
        if head.startswith(sign) or (sign[:1] in b"<{[" and start.startswith(sign)):
            raise ValueError(f"{path} is {what}, not a table that can be read here; {advice}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive; unpack it and name the file in it")
    if b"\n" not in head and b"\r" in head.rstrip(b"\r"):
        raise ValueError(
            f"{path}: lines end with a carriage return alone; end them with a line feed: "
            r"tr '\r' '\n'"
        )
    if b"\0" in io.BytesIO(head).readline():
        raise ValueError(
            f"{path} has NUL bytes in its first line: UTF-16 without a mark, or no text at all; "
            "write it as UTF-8 text"
        )
