"""What a file is, is told by its content; what is no table is refused in one sentence that names it."""

import bz2
import gzip
import io
import logging
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from autorank.app.programs import plain_errors
from autorank.data.format.source import Columns, Position
from autorank.data.logs import table
from autorank.data.prepare import log_files, store, text_segments
from autorank.data.prepare.check_rows import check_rows
from autorank.data.prepare.columns import as_text, to_numbers
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.table_file import check_types, inspect_table, table_segments

ROOT = Path(__file__).resolve().parents[2]
ROLES = "name: t\nclick: y\ntime: ts\ncategorical: [user]\ndense: [price]\n"
LINES = [f"u{i % 3},{i / 7:.3f},{1_700_000_000 + i},{i % 2}" for i in range(30)]
TEXT = "\n".join(["user,price,ts,y", *LINES, ""])
CSV = TEXT.encode()
TABLE = pyarrow.csv.read_csv(io.BytesIO(CSV))


def parquet(content=TABLE, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(content, sink, **options)
    return sink.getvalue().to_pybytes()


def arrow(content=TABLE, writer=pa.ipc.new_file):
    sink = pa.BufferOutputStream()
    with writer(sink, content.schema) as file:
        file.write_table(content, max_chunksize=7)
    return sink.getvalue().to_pybytes()


def zipped():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("log.csv", TEXT)
    return sink.getvalue()


def lz4():
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as file:
        file.write(CSV)
    return sink.getvalue().to_pybytes()


PARQUET, GZIP = parquet(), gzip.compress(CSV)
READ = {
    "log.csv": CSV,
    "plain.csv.gz": CSV,
    "plain.zst": CSV,
    "gzip.csv": GZIP,
    "two_members.csv.gz": gzip.compress(CSV[:99]) + gzip.compress(CSV[99:]),
    "bz2.csv.gz": bz2.compress(CSV),
    "zstd.csv": pa.compress(CSV, "zstd", asbytes=True),
    "lz4.csv": lz4(),
    "csv.parquet": CSV,
    "parquet.csv": PARQUET,
    "no_suffix": PARQUET,
    "feather.parquet": arrow(),
    "log.arrow": arrow(),
    "mark.csv": b"\xef\xbb\xbf" + CSV,
    "returns.csv": CSV.replace(b"\n", b"\r\n"),
    "LOG.CSV.GZ": GZIP,
}
SURPRISES = {
    "plain.csv.gz": "plain text",
    "plain.zst": "plain text",
    "gzip.csv": "text compressed with gzip",
    "bz2.csv.gz": "text compressed with bz2",
    "zstd.csv": "text compressed with zstd",
    "lz4.csv": "text compressed with lz4",
    "csv.parquet": "plain text",
    "parquet.csv": "a Parquet file",
    "feather.parquet": "an Arrow file",
}
REFUSED = {
    "empty.csv": (b"", "is empty"),
    "empty.parquet": (b"", "is empty"),
    "empty.csv.gz": (gzip.compress(b""), "is empty once decompressed"),
    "header.csv": (CSV[:16], "has a header but no rows"),
    "header.csv.gz": (gzip.compress(CSV[:16]), "has a header but no rows"),
    "header.parquet": (parquet(TABLE.slice(0, 0)), "has a header but no rows"),
    "header.arrow": (arrow(TABLE.slice(0, 0)), "has a header but no rows"),
    "blank.csv": (b"\n \n", "contains only white space"),
    "mark.csv": (b"\xef\xbb\xbf", "contains only white space"),
    "cut.parquet": (PARQUET[:-9], "parquet file cannot be read .*is it whole"),
    "start.parquet": (PARQUET[:200], "parquet file cannot be read .*is it whole"),
    "cut.arrow": (arrow()[:-9], "arrow file cannot be read .*is it whole"),
    "cut.csv.gz": (GZIP[:-9], "is the file whole"),
    "broken.csv.gz": (GZIP[:40] + b"rubbish" + GZIP[47:], "is the file whole"),
    "late.csv.gz": (  # behind the bytes that are looked at first, before the end of the header
        (long := gzip.compress(random.Random(0).randbytes(9000).hex().encode() + b"\n" + CSV))[
            :7000
        ]
        + b"rubbish"
        + long[7007:],
        "is the file whole",
    ),
    "utf16.csv": (TEXT.encode("utf-16"), "is UTF-16 text.*UTF-8"),
    "utf16.csv.gz": (gzip.compress(TEXT.encode("utf-16")), "is UTF-16 text.*UTF-8"),
    "no_mark.csv": (TEXT.encode("utf-16-le"), "NUL bytes in its first line"),
    "latin.csv": (CSV.replace(b"u", b"\xfc"), "must be utf-8 text"),
    "mac.csv": (CSV.replace(b"\n", b"\r"), "end with a bare carriage return"),
    "twice.csv": (CSV.replace(b"price", b"user"), r"\['user'\] occur twice"),
    "twice.parquet": (parquet(TABLE.rename_columns(["a", "a", "b", "c"])), r"\['a'\] occur twice"),
    "semicolon.csv": (CSV.replace(b",", b";"), 'write separator: ";" in .*roles.yaml'),
    "tab.csv": (CSV.replace(b",", b"\t"), r'write separator: "\\t" in .*roles.yaml'),
    "other.csv": (
        CSV.replace(b"price", b"cost"),
        r"not have: \['price'\] \(it has \['user', 'cost'",
    ),
    "packed.parquet.gz": (gzip.compress(PARQUET), "compressed with gzip; decompress it first"),
    "log.zip": (zipped(), "is a ZIP archive"),
    "stream.arrow": (arrow(writer=pa.ipc.new_stream), "is an Arrow stream"),
    "page.csv": (b"\n<!DOCTYPE html><html>", "is an HTML page"),
    "lines.csv": (b'{"user": 1}\n', "is JSON"),
    "pickle.csv": (b"\x80\x04\x95", "is a Python pickle"),
    "lfs.csv": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
}


def prepared(path, folder):
    (folder / "roles.yaml").write_text(ROLES)
    source = table.source(path, folder / "roles.yaml")
    store.prepare(source, folder / "out", min_count=1, progress=lambda line: None)
    return store.load(folder / "out")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    (folder / "log.csv").write_bytes(CSV)
    return prepared(folder / "log.csv", folder)


@pytest.mark.parametrize("name", READ)
def test_content_decides(tmp_path, caplog, expected, name):
    (tmp_path / name).write_bytes(READ[name])
    with caplog.at_level(logging.INFO, "autorank.data.logs.table"):
        data = prepared(tmp_path / name, tmp_path)
    assert data.fingerprint() == expected.fingerprint()
    said = [r.getMessage() for r in caplog.records if r.name == "autorank.data.logs.table"]
    if name in SURPRISES:
        assert said == [f"{name} is {SURPRISES[name]}, despite its name; reading it as such"]
    else:
        assert not said


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused(tmp_path, name):
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path / name, tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_files_end_in_one_sentence(tmp_path):
    """Bytes changed, cut out and put in, in files of each form: a result, or a refusal of ours."""
    rng = random.Random(0)
    forms = {"a.csv": CSV, "b.csv.gz": GZIP, "c.parquet": PARQUET, "d.arrow": arrow()}
    (tmp_path / "roles.yaml").write_text(ROLES)
    roles = table.read_roles(tmp_path / "roles.yaml")
    refused = 0
    for turn in range(160):
        name = list(forms)[turn % len(forms)]
        content = bytearray(forms[name])
        for _ in range(rng.choice([1, 1, 3, 9])):
            place = rng.randrange(len(content))
            content[place : place + rng.choice([0, 1, 20])] = rng.randbytes(rng.randrange(3))
        (tmp_path / name).write_bytes(content)
        try:
            (file,) = log_files.inspect_tables([tmp_path / name], roles.csv)
            check_types(file, roles.columns, [n for n in roles.columns.read if n in file.names])
            read = [n for n in roles.columns.read if n in file.names]
            for piece in table_segments(file, roles.columns, Position(), read=read):
                piece.read()
        except ValueError as error:
            refused += 1
            assert type(error) is ValueError, repr(error)
            assert name in str(error) and "\n" not in str(error)
    assert 40 < refused < 160


@pytest.mark.parametrize(
    "roles, message",
    [
        (b"name: [", "not valid YAML: .*line 1"),
        (ROLES.encode() + b"\tdrop: [a]", "not valid YAML: .*line 6"),
        (b"\x89PNG\xff", "not UTF-8 text"),
        (b"", "expected keys and values"),
        (ROLES.encode() + b"click: user\n", r"keys \['click'\] occur twice"),
    ],
)
def test_a_schema_file_that_is_none(tmp_path, roles, message):
    (tmp_path / "log.csv").write_bytes(CSV)
    (tmp_path / "roles.yaml").write_bytes(roles)
    with pytest.raises(ValueError, match=f"roles.yaml.*{message}") as caught:
        table.source(tmp_path / "log.csv", tmp_path / "roles.yaml")
    assert "\n" not in str(caught.value)


def parts_of_a_log(folder):
    """A folder as programs leave it: parts of several forms, an empty one, and what is no part."""
    folder.mkdir()
    (folder / "part-0.csv").write_bytes(b"\n".join(CSV.split(b"\n")[:11]) + b"\n")
    (folder / "part-1.parquet").write_bytes(parquet(TABLE.slice(10, 15), row_group_size=4))
    (folder / "part-2.csv.gz").write_bytes(
        gzip.compress("\n".join(["user,price,ts,y", *LINES[25:]]).encode())
    )
    (folder / "part-3.parquet").write_bytes(b"")
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / ".part-0.csv.crc").write_bytes(b"crc")
    return folder


@pytest.mark.parametrize("pattern", ["", "part-*"])
def test_a_folder_and_a_pattern(tmp_path, expected, pattern):
    folder = parts_of_a_log(tmp_path / "log")
    data = prepared(folder / pattern, tmp_path)
    for name in ("sparse", "dense", "labels"):
        np.testing.assert_array_equal(getattr(data, name), getattr(expected, name))


def test_pieces_of_many_files_go_on_at_any_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(text_segments, "SEGMENT_BYTES", 60)
    (tmp_path / "roles.yaml").write_text(ROLES)
    roles = table.read_roles(tmp_path / "roles.yaml")
    paths = log_files.files_of(parts_of_a_log(tmp_path / "log"))
    files = log_files.inspect_tables(paths, roles.csv)

    def rows(start):
        found, ends = [], []
        for piece in log_files.segments_of_files(files, roles.columns, start):
            chunk = piece.read()
            users = as_text(chunk.columns["user"]).to_pylist()
            places = [(chunk.file, line) for line in chunk.lines.tolist()]
            found += zip(places, users, strict=True)
            ends.append((piece.end, piece.share, len(found)))
        return found, ends

    everything, ends = rows(Position())
    assert [user for _, user in everything] == [line.split(",")[0] for line in LINES]
    shares = [share for _, share, _ in ends]
    assert len(ends) > 8 and shares == sorted(shares) and shares[-1] == 1
    for end, _, count in ends:
        assert rows(end)[0] == everything[count:]


def replaced(name, values):
    return TABLE.set_column(TABLE.column_names.index(name), name, values)


@pytest.mark.parametrize(
    "name, one, other, types",
    [
        ("user", pa.array([True] * 30), None, ("bool", "string")),
        ("user", pa.array([1] * 30, pa.date32()), None, (r"date32\[day\]", "string")),
        ("ts", pa.array([1] * 30, pa.timestamp("us")), None, (r"timestamp\[us\]", "int64")),
        (
            "ts",
            pa.array([1] * 30, pa.timestamp("us")),
            pa.array([1] * 30, pa.timestamp("ms", "UTC")),
            (r"timestamp\[us\]", r"timestamp\[ms, tz=UTC\]"),
        ),
    ],
)
def test_types_that_differ_between_files(tmp_path, name, one, other, types):
    (tmp_path / "a.parquet").write_bytes(parquet(replaced(name, one)))
    second = TABLE if other is None else replaced(name, other)
    (tmp_path / "b.parquet").write_bytes(parquet(second))
    what = rf"column '{name}' is {types[0]} in .*a.parquet and {types[1]} in .*b.parquet"
    with pytest.raises(ValueError, match=what):
        prepared(tmp_path / "*.parquet", tmp_path)


def test_types_that_differ_and_mean_the_same(tmp_path, expected):
    users = TABLE["user"].dictionary_encode()
    cents = TABLE["price"].cast(pa.decimal128(9, 3))
    odd = TABLE.set_column(0, "user", users).set_column(1, "price", cents)
    (tmp_path / "a.parquet").write_bytes(parquet(odd.slice(0, 9)))
    (tmp_path / "b.parquet").write_bytes(parquet(TABLE.slice(9)))
    data = prepared(tmp_path / "*.parquet", tmp_path)
    np.testing.assert_array_equal(data.dense, expected.dense)
    np.testing.assert_array_equal(data.sparse, expected.sparse)


def test_folders_and_patterns_are_checked(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is an empty folder"):
        prepared(tmp_path / "empty", tmp_path)
    with pytest.raises(ValueError, match="contains folders"):
        table.source(tmp_path, tmp_path / "roles.yaml")
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*.csv"):
        prepared(tmp_path / "*.csv", tmp_path)
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / "b.csv").write_bytes(CSV.replace(b"price", b"cost"))
    with pytest.raises(
        ValueError, match=r"b.csv and .*a.csv.*lacks \['price'\] and also has \['cost'\]"
    ):
        prepared(tmp_path / "?.csv", tmp_path)
    (tmp_path / "b.csv").write_bytes(CSV.replace(b"170000", b"2024-01-01T00:00Z170000", 1))
    (tmp_path / "b.csv").write_bytes(CSV.replace(b"1700000000", b"2024-01-01"))
    with pytest.raises(ValueError, match=r"numbers \(a.csv:2: 1700000000\)"):
        prepared(tmp_path / "?.csv", tmp_path)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.arrow"])
def test_rows_without_labels_can_be_read(tmp_path, monkeypatch, name, compiled):
    """As a scorer does: features, and a column without a role as the file has it."""
    monkeypatch.setattr(text_segments, "worth_compiling", lambda size: compiled)
    rows = TABLE.drop_columns(["y", "ts"]).append_column("note", pa.array(["n"] * 30))
    sink = io.BytesIO()
    pyarrow.csv.write_csv(rows, sink, pyarrow.csv.WriteOptions(quoting_style="none"))
    content = {"csv": sink.getvalue(), "parquet": parquet(rows), "arrow": arrow(rows)}
    (tmp_path / name).write_bytes(content[name.split(".")[1]])
    columns, read = Columns(("user",), ("price",), "y", None, "ts"), ["user", "price", "note"]
    file = inspect_table(tmp_path / name, CsvFormat())
    check_types(file, columns, read)
    users, notes, prices = [], [], []
    for piece in table_segments(file, columns, Position(), read=read):
        chunk = piece.read()
        users += as_text(chunk.columns["user"]).to_pylist()
        notes += as_text(chunk.columns["note"]).to_pylist()
        prices += to_numbers(chunk.columns["price"])[0].tolist()
    assert users == TABLE["user"].to_pylist() and notes == ["n"] * 30
    assert prices == TABLE["price"].to_pylist()


@pytest.mark.parametrize("compiled", [False, True])
def test_labels_as_words(tmp_path, monkeypatch, expected, compiled):
    """What pandas and SQL make of a bool column; another word is a bad row."""
    monkeypatch.setattr(text_segments, "worth_compiling", lambda size: compiled)
    rows = CSV.replace(b",0\n", b",False\n").replace(b",1\n", b",TRUE\n", 3).split(b"\n")
    (tmp_path / "log.csv").write_bytes(b"\n".join(rows))
    assert prepared(tmp_path / "log.csv", tmp_path).fingerprint() == expected.fingerprint()
    rows[7] = rows[7].replace(b"False", b"no").replace(b",1", b",no")
    (tmp_path / "log.csv").write_bytes(b"\n".join(rows))
    with pytest.raises(ValueError, match=r"log.csv:8: y='no' is not a label 0 or 1"):
        prepared(tmp_path / "log.csv", tmp_path)


def test_an_absent_column_is_named_with_those_that_are_there(tmp_path):
    (tmp_path / "log.csv").write_bytes(CSV)
    file, columns = inspect_table(tmp_path / "log.csv", CsvFormat()), Columns(("item",), (), "y")
    (segment,) = table_segments(file, columns, Position(), read=file.names)
    with pytest.raises(
        ValueError, match=r"columns \['item'\] are missing; it has \['user', 'price'"
    ):
        check_rows(segment.read(), columns)


def test_only_refusals_lose_their_traceback(monkeypatch):
    def refused():
        log_files.files_of(Path("/nowhere/*.csv"))

    def called():
        raise ValueError("not the library's")

    with pytest.raises(SystemExit, match=r"error: no file matches /nowhere/\*.csv"):
        plain_errors(refused)()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(FileNotFoundError):
        plain_errors(refused)()
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    with pytest.raises(ValueError, match="not the library's"):
        plain_errors(called)()
    with pytest.raises(ValueError, match="invalid literal"):
        plain_errors(lambda: int("x"))()


def test_the_program_says_it_in_one_line(tmp_path):
    (tmp_path / "roles.yaml").write_text(ROLES)
    (tmp_path / "log.parquet").write_bytes(parquet(replaced("user", pa.array([[1]] * 30))))
    overrides = ["data=table", f"data.path={tmp_path}/log.parquet", f"data.folder={tmp_path}/out"]
    command = [sys.executable, "-m", "experiments.prepare_data", *overrides]
    command += [f"data.schema={tmp_path}/roles.yaml", f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.strip().startswith(
        f"error: {tmp_path}/log.parquet: column 'user' of type list"
    )
    assert "Traceback" not in done.stderr and "\n" not in done.stderr.strip()
