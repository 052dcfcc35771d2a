import collections
import errno
import gzip
import io
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from autorank.data.format.source import Position
from autorank.data.logs import criteo, criteo_like_text, table
from autorank.data.prepare import encoders_file, ingest, pipeline, staging, store, text_segments
from autorank.data.prepare.columns import as_text
from autorank.data.prepare.encoders import encode

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["label", *(f"I{k}" for k in range(1, 14)), *(f"C{j}" for j in range(1, 27))]
ARRAYS = ("sparse", "dense", "labels")


def quiet(message):
    pass


def open_prepared(source, folder, **changes):
    store.prepare(source, folder, **{"min_count": 2, "progress": quiet, **changes})
    return store.load(folder, verify=True)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    criteo_like_text.write(path, 6000, 3, max_vocabulary=3000)
    return path


@pytest.fixture
def small_pieces(monkeypatch):
    """About 27 pieces of the log, so that borders, order and resuming matter."""
    monkeypatch.setattr(text_segments, "SEGMENT_BYTES", 1 << 16)


def by_hand(path: Path, min_count: int, train_fraction: float = 0.8):
    """A plain Python parser and encoder."""
    rows = [line.split("\t") for line in path.read_text().split("\n")[:-1]]
    num_train = round(train_fraction * len(rows))
    sparse, offset = np.empty((len(rows), 26), int), 0
    for j in range(26):
        column = [row[14 + j] for row in rows]
        counts = collections.Counter(value for value in column[:num_train] if value)
        first = {value: i for i, value in reversed(list(enumerate(column)))}
        kept = sorted(
            (v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], first[v])
        )
        ids = {value: 2 + i for i, value in enumerate(kept)}
        sparse[:, j] = [offset + (ids.get(value, 1) if value else 0) for value in column]
        offset += 2 + len(kept)
    dense = np.empty((len(rows), 13))
    for k in range(13):
        column = [float(row[1 + k]) if row[1 + k] else math.nan for row in rows]
        logs = np.array([math.copysign(math.log1p(abs(x)), x) for x in column])
        known = logs[:num_train][~np.isnan(logs[:num_train])]
        dense[:, k] = np.nan_to_num((logs - known.mean()) / known.std(), nan=0.0)
    return sparse, dense, np.array([[int(row[0])] for row in rows]), offset


def test_against_plain_python(log, tmp_path, small_pieces):
    data = open_prepared(criteo.source(log), tmp_path / "out", min_count=3, workers=3)
    assert len(list((tmp_path).glob(".out.partial/**"))) == 0
    sparse, dense, labels, num_ids = by_hand(log, 3)
    np.testing.assert_array_equal(data.sparse, sparse)
    np.testing.assert_allclose(data.dense, dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.schema.num_ids == num_ids and data.schema.name == "criteo"
    assert data.schema.dense == tuple(NAMES[1:14])
    assert [field.name for field in data.schema.fields] == NAMES[14:]
    assert min(data.dense[:, 1]) < -1  # I2 is below zero in places, and stays there


def test_workers_pieces_and_packing_change_nothing(log, tmp_path, monkeypatch):
    first = open_prepared(criteo.source(log), tmp_path / "one", workers=1)
    packed = tmp_path / "train.txt.gz"
    packed.write_bytes(
        gzip.compress(log.read_bytes()[:300_000]) + gzip.compress(log.read_bytes()[300_000:])
    )
    archive = tmp_path / "dac.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(log, "train.txt")
    forms = {"plain": log, "folder": log.parent, "gz": packed, "tar": archive}
    for piece, (name, path) in zip((16, 20, 17, 19), forms.items(), strict=True):
        monkeypatch.setattr(text_segments, "SEGMENT_BYTES", 1 << piece)
        other = open_prepared(criteo.source(path), tmp_path / name, workers=2)
        assert other.fingerprint() == first.fingerprint(), (name, piece)


def test_vocabularies_merged_in_runs_are_the_same(log, tmp_path, monkeypatch):
    from autorank.data.prepare import scale, vocabulary

    first = open_prepared(criteo.source(log), tmp_path / "one")
    monkeypatch.setattr(vocabulary, "RUN_ENTRIES", 1000)
    monkeypatch.setattr(scale, "BATCH_ROWS", 1024)
    monkeypatch.setattr(text_segments, "SEGMENT_BYTES", 1 << 16)
    other = open_prepared(criteo.source(log), tmp_path / "two")
    np.testing.assert_array_equal(other.sparse, first.sparse)
    np.testing.assert_allclose(other.dense, first.dense, rtol=1e-5, atol=1e-6)


def test_several_days_in_their_order(log, tmp_path):
    lines = log.read_text().splitlines(keepends=True)
    days = tmp_path / "days"
    days.mkdir()
    for day, first in (("day_0.gz", 0), ("day_1", 500), ("day_2", 900), ("day_10.gz", 2000)):
        last = {0: 500, 500: 900, 900: 2000, 2000: 6000}[first]
        content = "".join(lines[first:last]).encode()
        (days / day).write_bytes(gzip.compress(content) if day.endswith("gz") else content)
    whole = open_prepared(criteo.source(log), tmp_path / "whole")
    assert [path.name for path in criteo.find(days)] == ["day_0.gz", "day_1", "day_2", "day_10.gz"]
    data = open_prepared(criteo.source(days), tmp_path / "out")
    assert data.fingerprint() == whole.fingerprint()
    found = criteo.find(days / "day_[01]*")
    assert [path.name for path in found] == ["day_0.gz", "day_1", "day_10.gz"]
    (days / "day_1.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\['day_1'\] are there both compressed and uncompressed"):
        criteo.find(days)


def test_malformed_rows_have_their_lines(log, tmp_path, small_pieces):
    lines = log.read_text().split("\n")[:-1]
    good = [list(map(str, line.split("\t"))) for line in lines]
    bad = {
        17: "\t".join(good[17][:-1]),
        900: "\t".join([*good[900], "more"]),
        2500: "\t".join(["2", *good[2500][1:]]),
        2501: "\t".join(["", *good[2501][1:]]),
        4000: "\t".join([*good[4000][:3], "1,5", *good[4000][4:]]),
        5999: "\t".join([*good[5999][:9], "inf", *good[5999][10:]]),
    }
    wrong = [bad.get(i, line) for i, line in enumerate(lines)]
    path = tmp_path / "wrong.txt"
    path.write_text("\n".join(wrong) + "\n")
    data = open_prepared(criteo.source(path), tmp_path / "out", workers=2)
    assert data.schema.notes["bad_rows"]["first"] == [
        "wrong.txt:18: 39 fields instead of 40",
        "wrong.txt:901: 41 fields instead of 40",
        "wrong.txt:2501: label='2' is not a label 0 or 1",
        "wrong.txt:2502: label='' is not a label 0 or 1",
        "wrong.txt:4001: I3='1,5' is not a number",
        "wrong.txt:6000: I9='inf' is not a number",
    ]
    (tmp_path / "right.txt").write_text("\n".join(x for i, x in enumerate(lines) if i not in bad))
    expected = open_prepared(criteo.source(tmp_path / "right.txt"), tmp_path / "right")
    assert data.fingerprint() == expected.fingerprint()
    with pytest.raises(ValueError, match="6 of 6,000 rows are broken.*wrong.txt:18"):
        open_prepared(criteo.source(path), tmp_path / "strict", max_bad_share=0.0009)
    assert not list(tmp_path.glob(".strict.partial"))


def test_numbers_in_every_form(tmp_path):
    """What the fast way reads as a number, the careful way reads as the same number."""
    forms = ["7", "-3", "", "1e3", "1.5", " 4", "-0", "+2", "007"]
    rows = [
        "\t".join([str(i % 2), form, *["1"] * 12, *["ab"] * 26]) for i, form in enumerate(forms * 3)
    ]
    path = tmp_path / "train.txt"
    path.write_text("\n".join(rows))
    data = open_prepared(criteo.source(path), tmp_path / "out", max_bad_share=0.0)
    expected = [float(form) if form.strip() else math.nan for form in forms * 3]
    logs = np.array([math.copysign(math.log1p(abs(x)), x) for x in expected])
    known = logs[:22][~np.isnan(logs[:22])]
    standardised = np.nan_to_num((logs - known.mean()) / known.std(), nan=0.0)
    np.testing.assert_allclose(data.dense[:, 0], standardised, rtol=1e-5, atol=1e-6)


def word_hash(value: str) -> int:
    """The documented hash, in plain Python."""
    content, mask = value.encode(), (1 << 64) - 1
    h = 0x9E3779B97F4A7C15 * len(content) & mask
    for i in range(0, len(content), 8):
        h ^= int.from_bytes(content[i : i + 8], "little")
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & mask
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB & mask
        h ^= h >> 31
    return h


def test_hashed_ids(log, tmp_path, small_pieces):
    size = 977
    data = open_prepared(criteo.source(log), tmp_path / "out", encoding="hash", hash_size=size)
    rows = [line.split("\t") for line in log.read_text().split("\n")[:-1]]
    for j in range(26):
        offset = j * (size + 2)
        expected = [
            offset + (2 + ((word_hash(row[14 + j]) >> 32) * size >> 32) if row[14 + j] else 0)
            for row in rows
        ]
        np.testing.assert_array_equal(data.sparse[:, j], expected)
    assert [field.size for field in data.schema.fields] == [size + 2] * 26
    # A value that training never saw has an id like any other: test rows need no first pass.
    columns = {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}
    columns["C3"] = ["never seen", *columns["C3"][1:]]
    sparse, dense = encode(encoders_file.read_encoders(tmp_path / "out"), columns)
    assert sparse[0, 2] == 2 * (size + 2) + 2 + ((word_hash("never seen") >> 32) * size >> 32)
    np.testing.assert_array_equal(sparse[1:], data.sparse[1:])
    np.testing.assert_allclose(dense, data.dense, rtol=1e-4, atol=1e-5)
    assert (data.dense == open_prepared(criteo.source(log), tmp_path / "words").dense).all()


def test_encoders_score_raw_rows_alike(log, tmp_path):
    data = open_prepared(criteo.source(log), tmp_path / "out")
    rows = [line.split("\t") for line in log.read_text().split("\n")[:-1]]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}
    sparse, dense = encode(encoders_file.read_encoders(tmp_path / "out"), columns)
    np.testing.assert_array_equal(sparse, data.sparse)
    np.testing.assert_allclose(dense, data.dense, rtol=1e-4, atol=1e-5)


def test_where_to_get_the_files_is_said(tmp_path):
    for path in (None, tmp_path, tmp_path / "none.txt", tmp_path / "day_*"):
        with pytest.raises(FileNotFoundError, match="kaggle.com/c/criteo-display-ad-challenge"):
            criteo.source(path)
    with tarfile.open(tmp_path / "dac.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("../train.txt")
        file.addfile(member, io.BytesIO(b""))
    with pytest.raises(ValueError, match="wants to write to '../train.txt'"):
        open_prepared(criteo.source(tmp_path / "dac.tar.gz"), tmp_path / "out" / "x")


def test_a_packed_file_that_breaks_off(log, tmp_path):
    path = tmp_path / "day_0.gz"
    path.write_bytes(gzip.compress(log.read_bytes())[:-20_000])
    with pytest.raises(ValueError, match="day_0.gz.*is the file whole"):
        open_prepared(criteo.source(path), tmp_path / "out")


def test_generated_rows_as_a_log(tmp_path):
    source = criteo_like_text.source(5000, seed=3, max_vocabulary=3000)
    data = open_prepared(source, tmp_path / "out")
    criteo_like_text.write(tmp_path / "train.txt", 5000, 3, max_vocabulary=3000)
    other = open_prepared(criteo.source(tmp_path / "train.txt"), tmp_path / "file")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(data, name), getattr(other, name))
    assert 0.5 < data.schema.notes["bayes_ne"]["test"]["ctr"] < 0.95
    # Training on the original ids loses nothing: the text names each id by another value.
    from autorank.data.logs import criteo_like

    rows = criteo_like.arrays(5000, 3, max_vocabulary=3000, workers=1)
    np.testing.assert_array_equal(rows.labels, data.labels)
    all_kept = open_prepared(source, tmp_path / "all", min_count=1)
    for j in range(26):
        known = all_kept.sparse[:4000, j]
        pairs = set(zip(known.tolist(), rows.sparse[:4000, j].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


# ---- stopping and going on ----


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("stop_at", [0, 5, 20])
def test_going_on_gives_the_same_bytes(log, tmp_path, small_pieces, monkeypatch, stop_at):
    whole = open_prepared(criteo.source(log), tmp_path / "whole")
    written = []

    def stopping(folder, part, *rest):
        if part.index == stop_at:
            raise Stopped
        staging.write_part(folder, part, *rest)

    def counting(folder, part, *rest):
        written.append(part.index)
        staging.write_part(folder, part, *rest)

    monkeypatch.setattr(ingest, "write_part", stopping)
    with pytest.raises(Stopped):
        open_prepared(criteo.source(log), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(ingest, "write_part", counting)
    data = open_prepared(criteo.source(log), tmp_path / "out", workers=1)
    assert written[0] == stop_at
    assert data.fingerprint() == whole.fingerprint()
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("packed", [False, True])
def test_pieces_from_any_cut_are_the_rest(log, tmp_path, small_pieces, packed):
    path = log
    if packed:
        path = tmp_path / "train.txt.gz"
        path.write_bytes(gzip.compress(log.read_bytes()))
    files = [path, log]
    whole = list(text_segments.segments(files, criteo.FORMAT, criteo.COLUMNS, Position()))
    assert len(whole) > 40
    assert whole[-1].end.line == 6001 and 0.99 < whole[-1].share <= 1
    for k in (0, 3, 26, 30, len(whole) - 1):
        rest = list(text_segments.segments(files, criteo.FORMAT, criteo.COLUMNS, whole[k].end))
        assert [p.end for p in rest] == [p.end for p in whole[k + 1 :]]
        if rest:
            again, before = rest[0].read(), whole[k + 1].read()
            np.testing.assert_array_equal(again.lines, before.lines)
            assert as_text(again.columns["C1"]).equals(as_text(before.columns["C1"]))


def test_killed_at_any_moment(tmp_path):
    """Killed with SIGKILL again and again until it is done: no half folder, the same bytes."""
    path = tmp_path / "train.txt"
    criteo_like_text.write(path, 25_000, 1, max_vocabulary=20_000)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from autorank.data.logs import criteo\n"
        "from autorank.data.prepare import store, text_segments\n"
        "text_segments.SEGMENT_BYTES = 1 << 18\n"
        "print('ready', flush=True)\n"
        "store.prepare(criteo.source(Path(sys.argv[1])), Path(sys.argv[2]), workers=1)\n"
        "print('done', flush=True)\n"
    )

    def start(folder: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(tmp_path / folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    process = start("whole")
    assert process.communicate(timeout=300)[0].split() == ["ready", "done"]
    whole = store.load(tmp_path / "whole").fingerprint()
    delay, kills = 0.02, 0
    partial = tmp_path / ".out.partial"
    while True:
        process = start("out")
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        output = process.communicate(timeout=300)[0]
        if (tmp_path / "out").exists():
            break
        assert "done" not in output
        kills += 1
        # It must go forward whatever the machine's speed.
        delay = delay * 1.6 if not list(partial.glob("parts/*.json")) else delay * 1.15
        assert kills < 60
    assert kills >= 2
    assert store.load(tmp_path / "out", verify=True).fingerprint() == whole


def test_a_broken_part_is_made_again(log, tmp_path, small_pieces, monkeypatch):
    whole = open_prepared(criteo.source(log), tmp_path / "whole")

    def stopping(*arguments):
        raise Stopped

    monkeypatch.setattr(pipeline, "write_matrices", stopping)
    with pytest.raises(Stopped):
        open_prepared(criteo.source(log), tmp_path / "out")
    folder = tmp_path / ".out.partial" / "parts"
    found = staging.read_parts(folder)
    assert len(found) > 20
    rows = folder / "000007.rows"
    rows.write_bytes(rows.read_bytes()[:-1])
    assert len(staging.read_parts(folder)) == 7
    monkeypatch.undo()
    monkeypatch.setattr(text_segments, "SEGMENT_BYTES", 1 << 16)
    assert open_prepared(criteo.source(log), tmp_path / "out").fingerprint() == whole.fingerprint()


def test_work_for_other_settings_is_not_taken_up(log, tmp_path, small_pieces, monkeypatch):
    def stopping(*arguments):
        raise Stopped

    with monkeypatch.context() as changed:
        changed.setattr(pipeline, "write_matrices", stopping)
        with pytest.raises(Stopped):
            open_prepared(criteo.source(log), tmp_path / "out")
    told: list[str] = []
    open_prepared(criteo.source(log), tmp_path / "out", encoding="hash", progress=told.append)
    assert told and not any("resuming" in line for line in told)


def test_a_full_disk_is_said_and_nothing_is_lost(log, tmp_path, small_pieces, monkeypatch):
    def full(folder, part, *rest):
        if part.index == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        staging.write_part(folder, part, *rest)

    with monkeypatch.context() as changed:
        changed.setattr(ingest, "write_part", full)
        with pytest.raises(OSError, match="no space left.*Free some space and run it again"):
            open_prepared(criteo.source(log), tmp_path / "out", workers=1)
    told: list[str] = []
    data = open_prepared(criteo.source(log), tmp_path / "out", progress=told.append)
    assert any("resuming after the first" in line for line in told)
    assert data.fingerprint() == open_prepared(criteo.source(log), tmp_path / "w").fingerprint()


def test_stopped_while_writing_matrices(log, tmp_path, small_pieces, monkeypatch):
    from autorank.data.prepare import matrices

    whole = open_prepared(criteo.source(log), tmp_path / "whole")
    encoded = []

    def stopping(self, part, *rest):
        encoded.append(part.index)
        if part.index == 9:
            raise Stopped
        return encode_part(self, part, *rest)

    encode_part = matrices._PartEncoder.encode
    with monkeypatch.context() as changed:
        changed.setattr(matrices._PartEncoder, "encode", stopping)
        with pytest.raises(Stopped):
            open_prepared(criteo.source(log), tmp_path / "out")
    encoded.clear()
    monkeypatch.setattr(
        matrices._PartEncoder,
        "encode",
        lambda e, p, *r: (encoded.append(p.index), encode_part(e, p, *r))[1],
    )
    data = open_prepared(criteo.source(log), tmp_path / "out")
    assert encoded[0] == 9
    assert data.fingerprint() == whole.fingerprint() and data.schema.notes == whole.schema.notes


# ---- memory ----


def test_memory_stays_bounded(tmp_path):
    """A file six times as long takes hardly more memory, and far less than its length."""
    block = b"".join(criteo_like_text.text(20_000, 2))
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import polars, pyarrow.csv, pyarrow.compute\n"
        "from autorank.data.fast_text import short_strings\n"
        "from autorank.data.fast_text.loops import cell_parser, encoding, short_strings as _\n"
        "from autorank.data.logs import criteo\n"
        "from autorank.data.prepare import parse_text, store, text_segments\n"
        "short_strings.COMPILE_FROM_BYTES = 0\n"
        "text_segments.SEGMENT_BYTES = 1 << 20\n"
        "parse_text._ARROW_BLOCK = 1 << 20\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "start = peak()\n"
        "store.prepare(criteo.source(Path(sys.argv[1])), Path(sys.argv[2]), workers=1)\n"
        "print(start, peak())\n"
    )
    grown = []
    for copies in (4, 24):
        path = tmp_path / f"{copies}.txt"
        with path.open("wb") as file:
            for _ in range(copies):
                file.write(block)
        done = subprocess.run(
            [sys.executable, "-c", program, str(path), str(tmp_path / str(copies))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        start, peak = map(int, done.stdout.split())
        grown.append(peak - start)
    size = 24 * len(block)
    assert size > 3 * grown[1], (size, grown)
    assert grown[1] < grown[0] + size / 10, (size, grown)


# ---- any table ----


def test_a_table_out_of_order_is_sorted(log, tmp_path, small_pieces):
    """The same rows with a time column, shuffled, give the same data as in order."""
    rng = np.random.default_rng(0)
    lines = log.read_text().split("\n")[:3000]
    timed = [f"{line}\t{i // 3}" for i, line in enumerate(lines)]
    order = np.argsort(rng.permutation(1000)[np.arange(3000) // 3], kind="stable")
    roles = (
        'name: log\nclick: label\ntime: ts\nseparator: "\\t"\nquote: null\n'
        f"categorical: [{', '.join(NAMES[14:])}]\ndense: [{', '.join(NAMES[1:14])}]\n"
        f"columns: [{', '.join(NAMES)}, ts]\n"
    )
    (tmp_path / "roles.yaml").write_text(roles)
    found = {}
    for name, rows in {"sorted": timed, "shuffled": [timed[i] for i in order]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(rows) + "\n")
        source = table.source(tmp_path / f"{name}.txt", tmp_path / "roles.yaml")
        found[name] = open_prepared(source, tmp_path / name, min_count=1, workers=2)
    np.testing.assert_array_equal(found["sorted"].labels, found["shuffled"].labels)
    np.testing.assert_allclose(found["sorted"].dense, found["shuffled"].dense, rtol=1e-5, atol=1e-6)
    # Ties of counts are broken by first appearance, so the ids may be permuted.
    for j in range(26):
        a, b = (found[name].sparse[:, j].tolist() for name in ("sorted", "shuffled"))
        assert len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))
    assert (
        found["sorted"].schema.notes["unknown_share"]
        == found["shuffled"].schema.notes["unknown_share"]
    )
