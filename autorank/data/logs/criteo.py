"""Criteo's display advertising logs: the Kaggle challenge of 2014, and the terabyte of 24 days.

A line holds, separated by tabs and without a header, the label, 13 integers I1 to I13, and 26 hashed values C1 to C26
of 8 hexadecimal digits. An empty cell is a missing value. The meaning of the columns was never published. The rows are
in time order and have no time column, so the files are read in order.

- Kaggle (`train.txt`, in `dac.tar.gz`): 45,840,617 rows, 7 days, 25.6 % clicks. Criteo's terms of use:
  https://ailab.criteo.com/ressources/ and https://www.kaggle.com/c/criteo-display-ad-challenge.
- 1TB (`day_0.gz` to `day_23.gz`): 4,373,472,329 rows, 24 days, about 3.3 % clicks. CC BY-NC-SA 4.0:
  https://ailab.criteo.com/criteo-1tb-click-logs-dataset/ and https://huggingface.co/datasets/criteo/CriteoClickLogs.

Both licences must be accepted first, so the files are not downloaded automatically.

Integers are transformed by ``sign(x) log(1 + |x|)``, which keeps the sign of I2 (its minimum is -3), and standardised
on the training rows; a missing one becomes their mean. A missing category has the id of "missing". Lines with a
malformed number, a label other than 0 and 1, or a wrong number of cells are left out, counted, and reported with their
number. The challenge's test files have no labels and cannot be used here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autorank.base.records import location
from autorank.data.format.source import Columns, Position, Progress, Segment, Source, chunks_of
from autorank.data.logs.base import SOURCES, DataConfig, optional_path
from autorank.data.logs.download import extract
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.text_segments import segments

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
    "download train.txt from https://www.kaggle.com/c/criteo-display-ad-challenge or the day files from "
    "https://huggingface.co/datasets/criteo/CriteoClickLogs, and write data.path=FILE, a folder with "
    "train.txt or day_*, or a pattern such as 'folder/day_[0-3].gz'"
)
_NAMES = ("train.txt", "train.txt.gz", "train.tsv", "train.tsv.gz")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True)
class CriteoConfig(DataConfig):
    """Location of the log."""

    source: str = "criteo"
    # File, folder, pattern of files, or archive; not downloaded automatically.
    path: str | None = location()
    min_count: int = 10  # as is usual on this log, most of whose 33.8M values are rare


@SOURCES.register("criteo", CriteoConfig)
def from_settings(settings: CriteoConfig) -> Source:
    """Criteo: Kaggle's train.txt, or day files of the 1TB logs, which must be downloaded by hand."""
    return source(optional_path(settings.path))


def source(path: Path | None) -> Source:
    """The log in a file (also .gz), a folder, a pattern of files, or the challenge's archive.

    A folder stands for its `train.txt`, or for all `day_<n>` in the order of n. An archive stands for its `train.txt`,
    which is extracted once.

    Raises:
        FileNotFoundError: no path, or no such files; the message tells where to get them.
    """
    files = find(path)
    read_segments = partial(_read_segments, files, files[0].name.endswith(_ARCHIVES))
    return Source(
        name="criteo",
        settings={"reader": "criteo", "version": VERSION},
        files=files,
        columns=COLUMNS,
        chunks=chunks_of(read_segments),
        origin="Criteo display advertising logs (Kaggle 2014, or the 1TB click logs), Criteo AI Lab",
        licence=LICENCE,
        segments=read_segments,
    )


def find(path: Path | None) -> tuple[Path, ...]:
    """The files that a path stands for, in time order; see `source`.

    Raises:
        FileNotFoundError: no path, or no such files.
        ValueError: a day is there both compressed and uncompressed.
    """
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
        raise ValueError(
            f"{path}: {twice} are there both compressed and uncompressed; remove one of each"
        )
    return tuple(by_number)


def _read_segments(
    files: tuple[Path, ...], archive: bool, raw: Path, progress: Progress, start: Position
) -> Iterator[Segment]:
    if archive:
        files = (_extract_once(files[0], raw, progress),)
    return segments(files, FORMAT, COLUMNS, start)


def _extract_once(archive: Path, raw: Path, progress: Progress) -> Path:
    """Extracts the archive once, into a folder named after its size and time; returns its `train.txt`."""
    status = archive.stat()
    folder = raw / f"{archive.name}-{status.st_size}-{status.st_mtime_ns}"
    if not folder.is_dir():
        progress(f"extracting {archive}")
        partial_folder = folder.with_name(folder.name + ".partial")
        partial_folder.mkdir(parents=True, exist_ok=True)
        extract(archive, partial_folder)
        partial_folder.rename(folder)
    found = sorted(file for file in folder.rglob("train.txt") if file.is_file())
    if not found:
        raise FileNotFoundError(f"{archive} holds no train.txt: {WHERE}")
    return found[0]
