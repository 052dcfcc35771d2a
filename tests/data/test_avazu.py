import datetime
import gzip

import numpy as np
import pytest

from autorank.data.logs import avazu
from autorank.data.prepare import encoders_file, store, text_segments
from autorank.data.prepare.encoders import encode


def lines(num_rows: int) -> list[str]:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(num_rows):
        hour = datetime.datetime(2014, 10, 21) + datetime.timedelta(hours=i * 100 // num_rows)
        values = [f"{rng.integers(0, 5):08x}" for _ in avazu.FIELDS]
        values[-2] = "-1" if i % 3 else "100084"
        rows.append(f"{10**18 + i},{rng.integers(0, 2)},{hour:%y%m%d%H},{','.join(values)}")
    return rows


HEADER = ",".join(avazu.HEADER)


def write(path, rows, header=HEADER):
    content = ("\n".join([header, *rows]) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def open_prepared(source, folder, **changes):
    store.prepare(source, folder, **{"min_count": 1, "progress": lambda t: None, **changes})
    return store.load(folder)


def test_against_plain_python(tmp_path, monkeypatch):
    monkeypatch.setattr(text_segments, "SEGMENT_BYTES", 1 << 14)
    rows = lines(1000)
    data = open_prepared(avazu.source(write(tmp_path / "train.csv", rows)), tmp_path / "out")
    assert [field.name for field in data.schema.fields] == ["hour_of_day", "weekday", *avazu.FIELDS]
    assert data.schema.dense == () and data.dense.shape == (1000, 0)
    cells = [row.split(",") for row in rows]
    np.testing.assert_array_equal(data.labels[:, 0], [int(cell[1]) for cell in cells])
    moments = [datetime.datetime.strptime("20" + cell[2], "%Y%m%d%H") for cell in cells]
    columns = [[str(m.hour) for m in moments], [str(m.isoweekday()) for m in moments]]
    columns += [[cell[3 + j] for cell in cells] for j in range(len(avazu.FIELDS))]
    kept = encoders_file.read_encoders(tmp_path / "out").fields
    for j, column in enumerate(columns):
        assert set(kept[j].values) == set(column[:800])
        ids = {value: kept[j].offset + 2 + i for i, value in enumerate(kept[j].values)}
        expected = [ids.get(value, kept[j].offset + 1) for value in column]
        np.testing.assert_array_equal(data.sparse[:, j], expected)
    raw = dict(zip(avazu.HEADER, map(list, zip(*cells, strict=True)), strict=True))
    sparse, _ = encode(encoders_file.read_encoders(tmp_path / "out"), avazu.derive(raw))
    np.testing.assert_array_equal(sparse, data.sparse)


def test_packed_and_out_of_order(tmp_path):
    rows = lines(300)
    first = open_prepared(avazu.source(write(tmp_path / "train.csv", rows)), tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    write(tmp_path / "packed" / "train.gz", rows)
    packed = open_prepared(avazu.source(tmp_path / "packed"), tmp_path / "gz")
    assert packed.fingerprint() == first.fingerprint()
    late_first = write(tmp_path / "late.csv", [*rows[150:], *rows[:150]])
    data = open_prepared(avazu.source(late_first), tmp_path / "late")
    np.testing.assert_array_equal(data.labels, first.labels)


def test_hours_that_are_none(tmp_path):
    rows = lines(40)
    cells = [row.split(",") for row in rows]
    for row, hour in {3: "14102124", 7: "14130100", 9: "", 11: "2014102100", 20: "noon"}.items():
        cells[row][2] = hour
    path = write(tmp_path / "train.csv", [",".join(cell) for cell in cells])
    data = open_prepared(avazu.source(path), tmp_path / "out", max_bad_share=0.2)
    assert data.schema.num_rows == 35
    assert data.schema.notes["bad_rows"]["first"] == [
        "train.csv:5: hour='14102124 (no hour YYMMDDHH)' is not a time",
        "train.csv:9: hour='14130100 (no hour YYMMDDHH)' is not a time",
        "train.csv:11: hour=' (no hour YYMMDDHH)' is not a time",
        "train.csv:13: hour='2014102100 (no hour YYMMDDHH)' is not a time",
        "train.csv:22: hour='noon (no hour YYMMDDHH)' is not a time",
    ]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="kaggle.com/c/avazu-ctr-prediction"):
        avazu.source(None)
    with pytest.raises(FileNotFoundError, match="kaggle.com/c/avazu-ctr-prediction"):
        avazu.source(tmp_path)
    path = write(tmp_path / "train.csv", [], HEADER.replace("C14,", ""))
    with pytest.raises(ValueError, match=r"columns \['C14'\] are missing"):
        avazu.source(path)
