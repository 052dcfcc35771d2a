"""Random tables with roles, like real logs: types, contents and file forms drawn from a seed."""

import bz2
import csv
import datetime
import decimal
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SHAPES = ((1, 0, 1), (2, 1, 2), (3, 2, 1))  # categorical, dense, labels: one program each
MOST_ROWS = 60
NAMES = ("user", "item id", "é", "hour", "C1", "null", "a,b", "line", "x.y", "reason", "1")
HEADERS_OF_LABELS = ("clicked", "bought")
_EPOCH = 1_700_000_000


class Fuzzed(NamedTuple):
    """A random table on the disk."""

    path: Path
    schema: Path
    columns: tuple[str, ...]
    places: tuple[int, ...]  # of its rows: lines of text, or rows from 1
    empty: tuple[int, ...]  # places of lines that hold nothing but separators
    blank: tuple[int, ...]  # lines without any cell do not count as rows
    settings: dict[str, Any]  # of `store.prepare`
    labels: int
    again: tuple[Path, ...]  # the same rows in other forms


class _Column(NamedTuple):
    values: list[Any]  # None: missing
    kind: Any  # Arrow type
    text: Callable[[Any], str] = str  # as a program writes it to a text file


def fuzz(seed: int, folder: Path) -> Fuzzed:
    """Writes the table of a seed into an empty folder."""
    rng = np.random.default_rng(seed)
    num_fields, num_dense, num_labels = SHAPES[int(rng.integers(len(SHAPES)))]
    num_rows = int(rng.integers(6, MOST_ROWS + 1))
    names = [str(name) for name in rng.permutation(NAMES)]
    fields, dense = names[:num_fields], names[num_fields : num_fields + num_dense]
    dropped = names[-1:] if rng.random() < 0.3 else []
    labels = list(HEADERS_OF_LABELS[:num_labels])
    columns = {name: _pick(rng, CATEGORICAL, num_rows) for name in (*fields, *dropped)}
    columns |= {name: _pick(rng, DENSE, num_rows) for name in dense}
    columns |= {name: _pick(rng, LABELS, num_rows) for name in labels}
    time = ["ts"] if rng.random() < 0.6 else []
    columns |= {name: _pick(rng, TIMES, num_rows) for name in time}
    columns = {name: columns[name] for name in rng.permutation(list(columns)).tolist()}
    roles: dict[str, Any] = {"name": "fuzzed", "click": labels[0], "categorical": fields}
    roles |= {"dense": dense, "drop": dropped}
    roles |= {"conversion": labels[1]} if num_labels > 1 else {}
    roles |= {"time": "ts"} if time else {}
    write = _write_text if rng.random() < 0.6 else _write_columns
    path, places, empty, blank, form, again = write(rng, folder, columns)
    (folder / "schema.yaml").write_text(yaml.safe_dump(roles | form, allow_unicode=True))
    hashed = rng.random() < 0.3
    settings = {
        "min_count": int(rng.integers(1, 3)),
        "encoding": "hash" if hashed else "vocabulary",
        "hash_size": 37,
        "max_bad_share": 1.0,
    }
    schema = folder / "schema.yaml"
    return Fuzzed(path, schema, tuple(columns), places, empty, blank, settings, num_labels, again)


def _pick(rng: np.random.Generator, kinds: Sequence[Any], num_rows: int) -> _Column:
    """A column of one of the kinds, some of its values missing."""
    column = kinds[int(rng.integers(len(kinds)))](rng, num_rows)
    share = rng.choice([0.0, 0.0, 0.1, 0.5, 1.0], p=[0.4, 0.3, 0.2, 0.08, 0.02])
    values = [None if rng.random() < share else value for value in column.values]
    return column._replace(values=values)


def _some(rng: np.random.Generator, num: int, values: Sequence[Any], kind: Any) -> _Column:
    return _Column([values[i] for i in rng.integers(0, len(values), num)], kind)


def _ints(kind: Any, low: int, high: int) -> Callable[..., _Column]:
    def column(rng: np.random.Generator, num: int) -> _Column:
        return _Column(rng.integers(low, high, num, dtype=kind).tolist(), pa.from_numpy_dtype(kind))

    return column


def _of(
    values: Sequence[Any], kind: Any, text: Callable[[Any], str] = str
) -> Callable[..., _Column]:
    return lambda rng, n: _some(rng, n, values, kind)._replace(text=text)


def _dictionary(rng: np.random.Generator, num: int) -> _Column:
    return _some(rng, num, ["u1", "u2", " u2", "7", "7.0"], pa.dictionary(pa.int32(), pa.string()))


def _mixed(rng: np.random.Generator, num: int) -> _Column:
    letters = "ab01.- \t,;|\"'é中e+_"
    texts = ["".join(rng.choice(list(letters), rng.integers(0, 12))) for _ in range(9)]
    return _some(rng, num, texts, pa.string())


_DAY = datetime.datetime(2024, 1, 1, tzinfo=None)
_DAYS = [_DAY + datetime.timedelta(hours=7 * i) for i in range(12)]
_MONEY = [decimal.Decimal(f"{i}.{j}0") for i in range(3) for j in (0, 5)]
_TEXTS = [
    "u1",
    "U1",
    "007",
    "7",
    "7.0",
    " 7",
    "-0",
    "1e3",
    "1000",
    "nan",
    "None",
    "null",
    "NA",
    "True",
    "x" * 40,
]
CATEGORICAL = (
    _ints(np.int64, 0, 9),
    _ints(np.int8, -3, 4),
    _ints(np.uint64, 2**63, 2**63 + 5),
    _ints(np.int64, -(2**62), 2**62),
    _of(_TEXTS, pa.string()),
    _of(_TEXTS, pa.large_string()),
    _dictionary,
    _mixed,
    _mixed,
    _of([True, False], pa.bool_()),
    _of([0.0, -0.0, 1.0, 2.0, 7.0, float("nan")], pa.float64()),
    _of([0.5, 1e-7, 1e300, 2.0**60, 3.0, float("inf")], pa.float64(), repr),
    _of([0.1, 7.0, 2.0**25], pa.float32()),
    _of(_MONEY, pa.decimal128(10, 2)),
    _of(_DAYS, pa.timestamp("ms")),
    _of([day.date() for day in _DAYS], pa.date32()),
    _of([b"a", b"\xff"], pa.binary(), lambda v: v.hex()),
    _of([[1], [1, 2]], pa.list_(pa.int64())),
    _of([{"a": 1}, {"a": 2}], pa.struct([("a", pa.int64())])),
    _of([None], pa.null()),
)
DENSE = (
    _ints(np.int64, -5, 1000),
    _ints(np.uint8, 0, 255),
    lambda rng, n: _Column(rng.normal(0, 9, n).tolist(), pa.float64(), repr),
    lambda rng, n: _Column(rng.normal(0, 9, n).astype(np.float32).tolist(), pa.float32()),
    _of([0.0, -1.5, 1e300, float("nan"), 3.0], pa.float64(), repr),
    _of([0.0, 2.5, float("inf"), -float("inf")], pa.float64(), repr),
    _of(["1", "2.5", " 3 ", "1e3", "-7", "", "nan", "12345678901"], pa.string()),
    _of(["1", "2.5", "cheap", "inf", "1,5", "0x10", "1_000"], pa.string()),
    _of([True, False], pa.bool_()),
    _of(_MONEY, pa.decimal128(10, 2)),
    _of([datetime.timedelta(seconds=5)], pa.duration("s")),
    _of([None], pa.null()),
)
LABELS = (
    *([_ints(np.int64, 0, 2)] * 4),
    _ints(np.int8, 0, 2),
    _of([True, False], pa.bool_()),
    _of([0.0, 1.0], pa.float64()),
    _of(["0", "1"], pa.string()),
    _of(["0", "1", "true", "maybe", "2"], pa.string()),
    _of([0, 1, 2, -1], pa.int64()),
    _of(["0", "1"], pa.dictionary(pa.int8(), pa.string())),
)
TIMES = (
    lambda rng, n: _Column((_EPOCH + np.sort(rng.integers(0, 9999, n))).tolist(), pa.int64()),
    lambda rng, n: _Column((_EPOCH + rng.integers(0, 9999, n)).tolist(), pa.int64()),
    lambda rng, n: _Column((1.0 * _EPOCH + rng.integers(0, 9999, n)).tolist(), pa.float64(), repr),
    _of(_DAYS, pa.timestamp("us")),
    _of(_DAYS, pa.timestamp("ns")),
    _of([day.date() for day in _DAYS], pa.date32()),
    _of([day.isoformat() for day in _DAYS], pa.string()),
    _of([day.isoformat(" ") + "+00:00" for day in _DAYS], pa.string()),
    _of([*(day.isoformat() for day in _DAYS), "soon"], pa.string()),
    _of([*(str(_EPOCH + i) for i in range(9)), "2024-01-01"], pa.string()),
)


def _write_columns(rng: np.random.Generator, folder: Path, columns: dict[str, _Column]) -> Any:
    """Writes a Parquet or Arrow file, and the same rows in the other format."""
    arrays = {name: _array(column) for name, column in columns.items()}
    table = pa.table(arrays)
    suffix = rng.choice(["", ".dat", ".csv"]) if rng.random() < 0.1 else None
    paths = [folder / f"log{suffix or '.parquet'}", folder / f"other{suffix or '.arrow'}"]
    pq.write_table(table, paths[0], row_group_size=int(rng.integers(1, MOST_ROWS)))
    with pa.OSFile(str(paths[1]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=int(rng.integers(1, MOST_ROWS)))
    if rng.random() < 0.4:
        paths.reverse()
    return paths[0], tuple(range(1, len(table) + 1)), (), (), {}, tuple(paths[1:])


def _array(column: _Column) -> Any:
    if pa.types.is_dictionary(column.kind):
        return pa.array(column.values, column.kind.value_type).dictionary_encode()
    return pa.array(column.values, column.kind)


def _write_text(rng: np.random.Generator, folder: Path, columns: dict[str, _Column]) -> Any:
    """Writes delimited text; some lines are cut, too long or blank."""
    separator = str(rng.choice([",", ",", "\t", ";", "|"]))
    quote = str(rng.choice(['"', '"', "'"])) if rng.random() < 0.85 else None
    named, broken = rng.random() < 0.8, rng.random() < 0.4
    end = str(rng.choice(["\n", "\n", "\r\n"]))
    cells = [[_cell(column, i) for column in columns.values()] for i in range(_num_rows(columns))]
    if quote is None:  # what would end a cell cannot be written
        cells = [[c.replace(separator, "_") for c in row] for row in cells]
    style = csv.QUOTE_ALL if rng.random() < 0.2 else csv.QUOTE_MINIMAL
    lines, places, empty, blank = [], [], [], []
    if quote is None and any(separator in name for name in columns):
        named = False
    if named:
        lines.append(_line(list(columns), separator, quote, style))
    for row in cells:
        text = _line(row, separator, quote, style)
        if broken and rng.random() < 0.1:
            lines.append("")
            blank.append(len(lines))
        if broken and rng.random() < 0.1:
            nothing = separator * (len(row) - 1)
            text = str(rng.choice([text + separator + "more", text[: len(text) // 2], nothing]))
        lines.append(text)
        if text == "":
            blank.append(len(lines))
            continue
        places.append(len(lines))
        if not text.replace(separator, "").replace(quote or separator, ""):
            empty.append(len(lines))
    content = end.join(lines) + (end if rng.random() < 0.8 else "")
    encoded = (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + content.encode()
    form: dict[str, Any] = {"separator": separator, "quote": quote}
    form |= {} if named else {"columns": list(columns)}
    packs = [("log.csv", bytes), ("LOG.TXT", bytes), ("log.csv.gz", gzip.compress)]
    packs += [("log.tsv.bz2", bz2.compress), ("log.zst", _zstd), ("plain.csv.gz", bytes)]
    order = rng.permutation(len(packs)).tolist()[:2]
    paths = []
    for k in order:
        name, pack = packs[k]
        (folder / name).write_bytes(pack(encoded))
        paths.append(folder / name)
    return paths[0], tuple(places), tuple(empty), tuple(blank), form, tuple(paths[1:])


def _num_rows(columns: dict[str, _Column]) -> int:
    return len(next(iter(columns.values())).values)


def _cell(column: _Column, row: int) -> str:
    """The value as text, without line ends, which no cell can hold."""
    value = column.values[row]
    if value is None or value != value:
        return ""
    return " ".join(column.text(value).splitlines())


def _line(cells: Sequence[str], separator: str, quote: str | None, style: Any) -> str:
    out = io.StringIO()
    if quote is None:
        return separator.join(cells)
    csv.writer(
        out, delimiter=separator, quotechar=quote, quoting=style, lineterminator=""
    ).writerow(cells)
    return out.getvalue()


def _zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)
