"""The compiled loops: planted extremes, where they are loaded and kept, and memory that is used again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autorank.data.fast_text import buffer_pool, cell_parser, short_strings
from autorank.data.fast_text.cell_parser import EMPTY, CellLayout, IntegerColumn, parse_cells
from autorank.data.fast_text.short_strings import ShortStrings
from autorank.data.logs import criteo, criteo_like_text
from autorank.data.prepare import matrices, store, vocabulary
from autorank.data.prepare.encoders import DenseEncoder, Encoders, FieldEncoder, signed_log
from autorank.data.prepare.encoders_file import write_encoders
from autorank.data.prepare.ingest import TABLE_SIZE, take_logs

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = CellLayout(4, ",", None, (2, 3), (0,), (1,))


def cells_of(*lines, end="\n", last=True):
    found = parse_cells((end.join(lines) + (end if last else "")).encode(), LAYOUT)
    assert found is not None
    return found


@pytest.mark.parametrize("last", [True, False])
def test_planted_cells(last):
    found = cells_of(
        "1,-9999999,abcdefgh,z",
        "0,99999999,,",
        ",-0,,12345678",
        "1,-,a,",
        "0,-12345678,,b",
        ",,,",
        "",
        "1,0,x",
        "0,00000007,\x7f,~",
        last=last,
    )
    label, number = found.integers
    assert label.values.tolist() == [1, 0, EMPTY, 1, 0, 0]
    assert number.values.tolist() == [-9999999, 99999999, 0, EMPTY, EMPTY, 7]
    assert number.other_text == {3: "-", 4: "-12345678"} and not label.other_text
    assert ShortStrings(found.strings[0]).to_pylist() == ["abcdefgh", "", "", "a", "", "\x7f"]
    assert ShortStrings(found.strings[1]).to_pylist() == ["z", "", "12345678", "", "b", "~"]
    assert found.lines.tolist() == [0, 1, 2, 3, 4, 8] and found.wrong == [(7, 3)]


def test_what_is_not_read():
    good = "1,1,a,b\n" * 3
    assert parse_cells(good.encode(), LAYOUT) is not None
    for other in ("1,1,a,123456789", "1,1,\r,b", "1,1,a\t,b", "1,1,\u00e9,b", "1,1,a,b\r"):
        assert parse_cells(f"{good}{other}\n{good}".encode(), LAYOUT) is None, other
    quoted = LAYOUT._replace(quote="'")
    assert parse_cells(good.encode(), quoted) is not None
    assert parse_cells(f"{good}1,1,'a',b\n".encode(), quoted) is None
    # A long cell, or a quoted one, of a line that has another number of cells is in nobody's way.
    found = cells_of("1,1,123456789", "1,1,a,b")
    assert found.wrong == [(0, 3)] and found.lines.tolist() == [1]


@pytest.mark.parametrize("window", [8, 9, 63, 64, 65, 4096])
@pytest.mark.parametrize("last", [True, False])
def test_every_cut_of_the_window(window, last, monkeypatch):
    monkeypatch.setattr(cell_parser, "WINDOW", window)
    lines = [f"{i % 2},{i},{'abcdefgh'[: i % 9]}," for i in range(60)]
    text = ("\n".join(lines) + ("\n" if last else "")).encode()
    found = parse_cells(text, LAYOUT)
    if window < max(map(len, lines)) + 1:
        assert found is None
        return
    assert found is not None
    assert found.integers[1].values.tolist() == list(range(60))
    assert ShortStrings(found.strings[0]).to_pylist() == [line.split(",")[2] for line in lines]


def test_more_cells_than_a_window_has_bytes(monkeypatch):
    monkeypatch.setattr(cell_parser, "WINDOW", 40)
    wide = CellLayout(5000, ",", None, (0,), (1,), (2,))
    found = parse_cells(b"1,0,2\n" * 18, wide)
    assert found is not None and not len(found.lines) and len(found.wrong) == 18


@given(st.lists(st.integers(-99_999_999, 99_999_999), max_size=30))
def test_logarithms_are_those_of_numpy(items):
    values = np.array(
        [*items, EMPTY, 0, TABLE_SIZE, TABLE_SIZE - 1, -TABLE_SIZE, 1 - TABLE_SIZE], np.int32
    )
    expected = np.where(values == EMPTY, np.nan, values.astype(np.float64))
    for keep in (slice(None), np.arange(len(values)) % 3 != 0):
        into = np.empty(len(values[keep]), np.float32)
        take_logs(IntegerColumn(values, {}), keep, into)
        np.testing.assert_array_equal(into, signed_log(expected[keep]).astype(np.float32))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=4), max_size=6), st.integers(0, 2))
def test_encoders_are_written_as_json_writes_them(tmp_path_factory, values, buckets):
    folder = tmp_path_factory.mktemp("encoders")
    fields = (FieldEncoder('a"\n', 0, tuple(values), buckets), FieldEncoder("b", 9, ("x", "y z")))
    encoders = Encoders(fields, (DenseEncoder("d", 0.1, 2.0),))
    write_encoders(encoders, folder)
    record = {
        "format": 3,
        "fields": [field._asdict() for field in fields],
        "dense": [encoder._asdict() for encoder in encoders.dense],
    }
    for field in record["fields"]:
        if not field["buckets"]:
            del field["buckets"]
    text = json.dumps(record, ensure_ascii=False)
    assert (folder / "encoders.json").read_bytes() == text.encode()


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("log") / "train.txt"
    path.write_bytes(b"".join(criteo_like_text.text(3000, 5, max_vocabulary=2000)))
    return path


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
@pytest.mark.parametrize("entries", [1 << 21, 300])
def test_loops_give_what_numpy_gives(log, tmp_path, monkeypatch, encoding, entries):
    """The whole of preparing, with parts and tiles that split and rows of training among the others."""
    monkeypatch.setattr("autorank.data.prepare.text_segments.SEGMENT_BYTES", 1 << 17)
    monkeypatch.setattr(matrices, "TILE", 300)
    monkeypatch.setattr(vocabulary, "RUN_ENTRIES", entries)
    found = []
    for worth in (1 << 40, 0):
        monkeypatch.setattr(short_strings, "COMPILE_FROM_BYTES", worth)
        for workers in (1, 3):
            folder = tmp_path / f"{worth}-{workers}"
            settings = {"encoding": encoding, "workers": workers, "train_fraction": 0.6}
            store.prepare(criteo.source(log), folder, progress=lambda line: None, **settings)
            data = store.load(folder, verify=True)
            found.append((data.schema, data.fingerprint()))
    assert found[1:] == found[:1] * 3


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_small_logs_load_no_compiler_and_no_statistics(log, tmp_path):
    program = f"""
import sys
from pathlib import Path
from autorank.data.logs import criteo
from autorank.data.prepare import store
store.prepare(criteo.source(Path({str(log)!r})), Path({str(tmp_path / "out")!r}), progress=lambda line: None)
print({{"numba", "scipy.stats"}} & set(sys.modules))
"""
    assert run(program) == "set()"


def test_loops_work_where_no_machine_code_can_be_kept(tmp_path):
    """A file in place of the folder: nothing can be written, whoever the user is."""
    (tmp_path / "file").touch()
    program = """
import numba.core.caching
from autorank.data.fast_text import compiled
numba.core.caching.CacheImpl._locator_classes = []
import numpy as np
from numba import types

@compiled.compiled(types.int64)
def twice(number):
    return 2 * number

print(twice(21), type(twice._cache).__name__)
"""
    assert run(program, NUMBA_CACHE_DIR=str(tmp_path / "file" / "no")) == "42 NullCache"


# ---- memory that is used again ----


def test_memory_is_used_again_when_nothing_refers_to_it():
    with buffer_pool.pooling():
        array = buffer_pool.empty((3, 50_000), np.int64)
        array[:] = 7
        place = array.ctypes.data
        part = array[1][10:20]  # NumPy lets it refer to the owner, past the views between
        del array
        other = buffer_pool.empty((3, 50_000), np.int64)
        assert other.ctypes.data != place
        other[:] = 8
        assert (part == 7).all()
        del part
        assert buffer_pool.empty((3, 50_000), np.float64).ctypes.data == place
        held = memoryview(other)
        del other
        assert buffer_pool.empty(150_000, np.int64).ctypes.data == place
        assert held[2, 5] == 8
        del held
    assert not buffer_pool._FREE


def test_arrays_outlive_the_recycling():
    with buffer_pool.pooling():
        array = buffer_pool.empty(100_000, np.uint8)
        array[:] = 3
    fresh = buffer_pool.empty(100_000, np.uint8)
    fresh[:] = 4
    assert (array == 3).all()
    del array
    assert not buffer_pool._FREE and buffer_pool.empty(0, np.int32).shape == (0,)
