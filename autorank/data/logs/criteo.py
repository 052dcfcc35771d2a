"""Criteo's display advertising logs: the Kaggle challenge of 2014, and the terabyte of 24 days.

A line is label, 13 integers I1 .. I13, 26 hashed values C1 .. C26 of 8 hexadecimal digits, with tabs
between and no header; an empty cell is a missing value. What the columns mean was never published.
Rows are in the order of time: the files are read in their order, and no column is a time.

- Kaggle (`train.txt`, in `dac.tar.gz`): 45,840,617 rows, 7 days, 25.6 % clicks. Criteo's terms of
  use for the challenge's data: https://ailab.criteo.com/ressources/ and
  https://www.kaggle.com/c/criteo-display-ad-challenge.
- 1TB (`day_0.gz` .. `day_23.gz`): 4,373,472,329 rows, 24 days, about 3.3 % clicks. CC BY-NC-SA 4.0:
  https://ailab.criteo.com/criteo-1tb-click-logs-dataset/ and
  https://huggingface.co/datasets/criteo/CriteoClickLogs.

Nothing is fetched: both ask for a licence to be accepted first.

Values as they are taken: integers pass ``sign(x) log(1 + |x|)``, so that I2, which falls to -3, keeps
its sign, and are standardised on the training rows; a missing one becomes their mean. A missing
category has the id of "missing". A line with a cell that is no number where one belongs, with
another label than 0 or 1, or with another number of cells is left out, counted, and reported with
its number. The test files without labels are of no use here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autorank.base.records import location
from autorank.data.format.source import Chunk, Columns, Cut, Piece, Progress, Source
from autorank.data.logs.base import SOURCES, DataConfig, optional_path
from autorank.data.logs.download import extract
from autorank.data.prepare.text import CsvFormat, pieces

VERSION = 1
COLUMNS = Columns(
    categorical=tuple(f"C{j}" for j in range(1, 27)),
    dense=tuple(f"I{k}" for k in range(1, 14)),
    click="label",
)
FORMAT = CsvFormat("\t", None, (COLUMNS.click, *COLUMNS.dense, *COLUMNS.categorical))
LICENCE = (
    "Criteo's terms (Kaggle 2014), CC BY-NC-SA 4.0 (1TB); accept them where the data is fetched"
)
WHERE = (
    "fetch train.txt from https://www.kaggle.com/c/criteo-display-ad-challenge or the day files from "
    "https://huggingface.co/datasets/criteo/CriteoClickLogs, and write data.path=FILE, a folder with "
    "train.txt or day_*, or a pattern such as 'folder/day_[0-3].gz'"
)
_NAMES = ("train.txt", "train.txt.gz", "train.tsv", "train.tsv.gz")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True)
class CriteoConfig(DataConfig):
    """Where the log is."""

    source: str = "criteo"
    path: str | None = location()  # file, folder, pattern of files, or archive; nothing is fetched
    min_count: int = 10  # as is usual on this log, most of whose 33.8M values are rare


@SOURCES.register("criteo", CriteoConfig)
def from_settings(settings: CriteoConfig) -> Source:
    """Criteo: Kaggle's train.txt, or day files of the 1TB logs. Nothing is fetched."""
    return source(optional_path(settings.path))


def source(path: Path | None) -> Source:
    """The log in a file (.gz too), a folder, a pattern of files, or the challenge's archive.

    Of a folder its `train.txt`, or all its `day_<n>` in the order of n. Of an archive its
    `train.txt`, unpacked once.

    Raises:
        FileNotFoundError: nothing given, or no such files; the text says where to get them.
    """
    files = find(path)
    archive = files[0].name.endswith(_ARCHIVES)
    return Source(
        name="criteo",
        settings={"reader": "criteo", "version": VERSION},
        files=files,
        columns=COLUMNS,
        chunks=partial(_chunks, files, archive),
        origin="Criteo display advertising logs (Kaggle 2014, or the 1TB click logs), Criteo AI Lab",
        licence=LICENCE,
        pieces=partial(_pieces, files, archive),
    )


def find(path: Path | None) -> tuple[Path, ...]:
    """The files that a path stands for, in the order of time; see `source`."""
    if path is None:
        raise FileNotFoundError(f"data=criteo needs data.path: {WHERE}")
    if path.is_file():
        return (path,)
    found = [path / name for name in _NAMES if (path / name).is_file()][:1]
    if path.is_dir() and not found:
        found = [file for file in path.iterdir() if re.fullmatch(r"day_\d+(\.gz)?", file.name)]
    elif not path.exists() and set("*?[") & set(path.name):
        found = [file for file in path.parent.glob(path.name) if file.is_file()]
    if not found:
        raise FileNotFoundError(f"{path}: no train.txt and no day_<n>[.gz] there: {WHERE}")
    by_number = sorted(found, key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)])
    names = [file.name.removesuffix(".gz") for file in by_number]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: {twice} are there packed and unpacked; remove one of each")
    return tuple(by_number)


def _pieces(
    files: tuple[Path, ...], archive: bool, raw: Path, progress: Progress, start: Cut
) -> Iterator[Piece]:
    if archive:
        files = (_unpack(files[0], raw, progress),)
    return pieces(files, FORMAT, COLUMNS, start)


def _chunks(
    files: tuple[Path, ...], archive: bool, raw: Path, progress: Progress
) -> Iterator[Chunk]:
    return (piece.read() for piece in _pieces(files, archive, raw, progress, Cut()))


def _unpack(archive: Path, raw: Path, progress: Progress) -> Path:
    """The archive's `train.txt` in the folder of raw files, named after the archive's content."""
    status = archive.stat()
    folder = raw / f"{archive.name}-{status.st_size}-{status.st_mtime_ns}"
    if not folder.is_dir():
        progress(f"unpacking {archive}")
        partial_folder = folder.with_name(folder.name + ".partial")
        partial_folder.mkdir(parents=True, exist_ok=True)
        extract(archive, partial_folder)
        partial_folder.rename(folder)
    found = sorted(file for file in folder.rglob("train.txt") if file.is_file())
    if not found:
        raise FileNotFoundError(f"{archive} holds no train.txt: {WHERE}")
    return found[0]
