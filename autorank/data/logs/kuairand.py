"""KuaiRand-Pure: exposures of short videos in April and May 2022, with click and long view as labels.

Gao et al., "KuaiRand: an unbiased sequential recommendation dataset with randomly exposed videos", CIKM 2022, arXiv
2208.08696. Outcomes of an exposure (what the user did, and for how long) are labels or dropped. The archive's
`video_features_statistic_pure.csv` is never read, because it sums over the whole period, including the future.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autorank.base.records import location
from autorank.data.format.canonical_text import canonical_texts
from autorank.data.format.source import BadRow, Chunk, Columns, Progress, Source
from autorank.data.logs.base import SOURCES, DataConfig, DeriveForScoring, optional_path
from autorank.data.logs.download import extract, fetch
from autorank.data.prepare.columns import as_series, as_text
from autorank.data.prepare.csv_format import CsvFormat, column_names
from autorank.data.prepare.read_csv import read_csv

VERSION = 1
CHUNK_ROWS = 1 << 19
URL = "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz"
MD5 = "0820331067a3784d9691136f772b35a7"
LOGS = "log_standard_*.csv"
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"

USER_FIELDS = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{i}" for i in range(18)),
)
VIDEO_FIELDS = ("author_id", "video_type", "upload_type", "music_id", "music_type", "tag")
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
VIDEO_NUMBERS = ("server_width", "server_height")
OUTCOMES = (
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "play_time_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
)
CONSTANT = ("is_rand", "is_lowactive_period", "visible_status")

# The age of a video is not a feature: all were uploaded within three days, so it identifies the day, and every day of
# the test rows is new.
COLUMNS = Columns(
    categorical=(
        "user_id",
        "video_id",
        *VIDEO_FIELDS,
        "duration",
        "tab",
        "hour",
        "weekday",
        *USER_FIELDS,
    ),
    dense=("duration_ms", *USER_NUMBERS, *VIDEO_NUMBERS),
    click="is_click",
    conversion="long_view",
    time="time_ms",
    dropped=(*OUTCOMES, *CONSTANT),
)
# The columns of a log from which features are computed.
SCORED = ("user_id", "video_id", "date", "hourmin", "duration_ms", "tab")


@dataclass(frozen=True)
class KuairandConfig(DataConfig):
    """Location of the log."""

    source: str = "kuairand"
    path: str | None = location()  # folder in the official layout; null = downloaded on first use


@SOURCES.register("kuairand", KuairandConfig)
def from_settings(settings: KuairandConfig) -> Source:
    """KuaiRand-Pure: click -> long view, from a folder in the official layout, or downloaded on first use."""
    return source(optional_path(settings.path))


def source(path: Path | None = None) -> Source:
    """The standard exposures from a local folder in the official layout, or downloaded on first use.

    All ``log_standard_*.csv`` of the folder (or of its ``data`` folder) are used. Of exact duplicates, the first is
    kept.

    Raises:
        FileNotFoundError: ``path`` lacks one of the files.
    """
    return Source(
        name="kuairand",
        settings={"reader": "kuairand", "version": VERSION},
        files=() if path is None else _local_files(path),
        columns=COLUMNS,
        chunks=lambda raw, progress: _chunks(path or _fetch(raw, progress), progress),
        origin=f"KuaiRand-Pure, Gao et al., CIKM 2022, arXiv 2208.08696, {URL}",
        licence="CC BY-SA 4.0",
    )


def _local_files(path: Path) -> tuple[Path, ...]:
    """The files of users and videos, then the logs in the order of their names, which is time order."""
    for folder in (path, path / "data", path / "KuaiRand-Pure" / "data"):
        logs = tuple(sorted(folder.glob(LOGS)))
        if logs and (folder / USERS).is_file() and (folder / VIDEOS).is_file():
            return (folder / USERS, folder / VIDEOS, *logs)
    raise FileNotFoundError(
        f"{path} is not a KuaiRand-Pure folder: it needs {LOGS}, {USERS} and {VIDEOS}; leave "
        f"data.path empty to download it from {URL}"
    )


def _fetch(raw: Path, progress: Progress) -> Path:
    try:
        _local_files(raw)
    except FileNotFoundError:
        progress(f"downloading KuaiRand-Pure from {URL}")
        archive = fetch([URL], raw / "KuaiRand-Pure.tar.gz", md5=MD5, progress=progress)
        extract(archive, raw)
    return raw


def _chunks(path: Path, progress: Progress) -> Iterator[Chunk]:
    user_file, video_file, *log_files = _local_files(path)
    users, videos = _read_users_and_videos(user_file, video_file)
    log, bad = _read(log_files)
    progress(f"read {len(log):,} exposures, {len(users):,} users, {len(videos):,} videos")
    place = ("file", "line")
    distinct = log.unique(
        subset=[name for name in log.columns if name not in place],
        keep="first",
        maintain_order=True,
    )
    counts = {"duplicate_rows": len(log) - len(distinct)}
    for first in range(0, len(distinct), CHUNK_ROWS):
        rows = _join(_features(distinct.slice(first, CHUNK_ROWS)), users, videos)
        for (file,), part in rows.group_by("file", maintain_order=True):
            lines = part["line"].to_numpy()
            yield Chunk(part.to_dict(as_series=True), str(file), lines, bad, counts)
            bad, counts = (), {}


def for_scoring(folder: Path) -> DeriveForScoring:
    """Computes the features from the columns `SCORED` of a log, joined with the users and videos in ``folder``.

    Every row can be scored; an invalid date or hour is a missing value. The files are read on the first call.
    """

    @cache
    def users_and_videos() -> tuple[Any, Any]:
        files = folder / USERS, folder / VIDEOS
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise FileNotFoundError(
                f"{folder} lacks {' and '.join(absent)}, which the log's rows are joined to; put the "
                "file to be scored next to them, or give it all columns of the model"
            )
        return _read_users_and_videos(*files)

    def features(columns: dict[str, Any]) -> tuple[dict[str, Any], dict[int, str]]:
        import polars as pl

        texts = {name: as_series(canonical_texts(as_text(columns[name]))) for name in SCORED}
        rows = _join(_features(pl.DataFrame(texts)), *users_and_videos())
        return rows.to_dict(as_series=True), {}

    return features


def _read_users_and_videos(user_file: Path, video_file: Path) -> tuple[Any, Any]:
    return (
        _read([user_file])[0].select("user_id", *USER_FIELDS, *USER_NUMBERS),
        _read([video_file])[0].select("video_id", *VIDEO_FIELDS, *VIDEO_NUMBERS),
    )


def _join(rows: Any, users: Any, videos: Any) -> Any:
    rows = rows.join(users, on="user_id", how="left", maintain_order="left")
    return rows.join(videos, on="video_id", how="left", maintain_order="left")


def _read(files: list[Path]) -> tuple[Any, tuple[BadRow, ...]]:
    """Reads whole files as text, with the file and line of each row, and their bad rows."""
    import polars as pl

    frames, bad = [], []
    for file in files:
        _require_columns(file)
        for chunk in read_csv(file, CsvFormat()):
            bad += chunk.bad
            frames.append(
                pl.DataFrame(dict(chunk.columns)).with_columns(
                    pl.lit(chunk.file).alias("file"), pl.Series("line", chunk.lines, pl.Int64)
                )
            )
    if not frames:
        raise ValueError(f"{', '.join(map(str, files))}: no rows")
    return pl.concat(frames), tuple(bad)


def _require_columns(file: Path) -> None:
    """Rejects a file that lacks columns, and names them."""
    if file.name == USERS:
        wanted = {"user_id", *USER_FIELDS, *USER_NUMBERS}
    elif file.name == VIDEOS:
        wanted = {"video_id", *VIDEO_FIELDS, *VIDEO_NUMBERS}
    else:
        wanted = {*SCORED, "time_ms", "is_click", "long_view"}
    absent = sorted(wanted - set(column_names(file, CsvFormat())))
    if absent:
        raise ValueError(
            f"{file}: columns {absent} are missing; is this KuaiRand-Pure in its official layout?"
        )


def _features(log: Any) -> Any:
    """Adds the hour and weekday of the exposure, and the duration in steps of a third of an octave."""
    import polars as pl

    duration = pl.col("duration_ms").cast(pl.Float64, strict=False)
    day = pl.col("date").str.to_date("%Y%m%d", strict=False)
    hour = pl.col("hourmin").cast(pl.Int64, strict=False) // 100
    return log.with_columns(
        hour=hour,
        weekday=day.dt.weekday(),
        duration=pl.when(duration > 0).then((3 * (duration / 1000).log(2)).floor().cast(pl.Int64)),
    )
