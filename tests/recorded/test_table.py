"""The Parquet file of a recorded table: it reads back bit for bit, stands alone, and refuses what it is not."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from autorank.recorded.table import made_table, runs_of
from autorank.recorded.table_file import read_table, write_table
from tests.recorded.making import FAILED, PLAN, SPACE, WINDOWS, all_runs, recorded_table


@pytest.fixture
def file(tmp_path):
    write_table(tmp_path / "t.parquet", recorded_table())
    return tmp_path / "t.parquet"


def test_a_table_reads_back_bit_for_bit(file):
    written, found = recorded_table(), read_table(file)
    assert found.space == SPACE and found.failed == written.failed
    for a, b in zip(
        (found.configs, found.curves, found.ne, *found.columns.values()),
        (written.configs, written.curves, written.ne, *written.columns.values()),
        strict=True,
    ):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    added = {"runs": len(PLAN.runs()), "content_sha256": written.digest()}
    assert found.about == written.about | added
    assert list(file.parent.iterdir()) == [file]
    # As a journal has them: the order is the table's.
    again = sorted(all_runs(), key=lambda r: (r.number, r.repeat))
    assert repr(runs_of(found)) == repr(
        [r._replace(seconds=float(np.float32(r.seconds)), compile_seconds=float(np.float32(0.1))) for r in again]
    )  # fmt: skip


def test_losses_of_slices_read_back_and_belong_to_the_values(tmp_path):
    table, file = recorded_table(slices=True), tmp_path / "t.parquet"
    write_table(file, table)
    found = read_table(file)
    assert found.slices is not None and found.slices.dtype == np.float32
    assert found.slices.shape == (len(PLAN.runs()), WINDOWS, 3)
    assert found.slices.tobytes() == table.slices.tobytes()
    assert found.about["slices"] == table.about["slices"]
    assert found.digest() == table.digest() != recorded_table().digest()
    again = made_table(SPACE, configs_of(found), runs_of(found), found.about)
    assert again.slices.tobytes() == table.slices.tobytes()
    read = pq.read_table(file)
    read = read.drop_columns("slice_losses").replace_schema_metadata(read.schema.metadata)
    pq.write_table(read, file)
    with pytest.raises(ValueError, match="the column slice_losses is missing"):
        read_table(file)


def configs_of(table):
    """By number."""
    found = np.zeros((table.columns["number"].max() + 1, SPACE.num_decisions), np.int32)
    found[table.columns["number"]] = table.configs
    return found


def test_the_file_can_be_used_without_this_project(file):
    read = pq.read_table(file)
    space = yaml.safe_load(read.schema.metadata[b"autorank.space"])
    assert json.loads(read.schema.metadata[b"autorank.about"])["plan"] == PLAN._asdict()
    table = recorded_table()
    for row, config in zip(read.to_pylist(), table.configs, strict=True):
        pairs = zip(space["decisions"], row["choices"], strict=True)
        values = {d["name"]: d["choices"][i] for d, i in pairs}
        assert values == SPACE.decode(config, inactive=True)
    lost = [row for row in read.to_pylist() if row["failed"]]
    assert {row["number"] for row in lost} == {FAILED} and len(lost) == 3
    assert np.isfinite(lost[0]["curve_ctr"]).sum() == 3 and len(lost[0]["curve_ctr"]) == WINDOWS
    assert str(read.schema.field("choices").type.value_type) == "int16"


def changed(file, change):
    read = pq.read_table(file)
    pq.write_table(change(read).replace_schema_metadata(read.schema.metadata), file)


def column(name, values):
    return lambda t: t.set_column(t.column_names.index(name), name, values(t))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns("flops"), "the column flops is missing"),
        (lambda t: t.append_column("more", t["flops"]), "column more: unknown"),
        (
            column("number", lambda t: t["number"].cast("int64")),
            "column number: its type is int64, not int32",
        ),
        (
            column("rows", lambda t: pa.array([None] * t.num_rows, "int64")),
            "column rows: 35 values are missing",
        ),
        (lambda t: t.slice(1), "34 rows, not the 35"),
        (
            column("repeat", lambda t: pa.array([0] * t.num_rows, "int16")),
            "columns number and repeat: a run is there twice",
        ),
        (lambda t: t.take(list(range(34, -1, -1))), "not in their order"),
        (
            column("flops", lambda t: pa.array([0.0] * t.num_rows)),
            "column flops: a value is not a number above 0",
        ),
        (
            column("session", lambda t: pa.array([1] * t.num_rows, "int16")),
            "column session: a value names none",
        ),
        (
            column("choices", lambda t: pa.array([[9, 0, 0, 0]] * t.num_rows, t["choices"].type)),
            "column choices: .*model.depth",
        ),
        (
            column("choices", lambda t: pa.array([[0, 2, 0, 1]] * t.num_rows, t["choices"].type)),
            "column choices: two numbers have the same",
        ),
        (
            column("failed", lambda t: pa.array([""] * t.num_rows)),
            "its values are not those that were written",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_column(file, change, said):
    changed(file, change)
    with pytest.raises(ValueError, match=said) as error:
        read_table(file)
    assert str(file) in str(error.value)


def test_a_run_without_a_window_must_have_failed(file):
    table = recorded_table()
    curves = table.curves.copy()
    curves[4] = np.nan
    write_table(file, replace(table, curves=curves))
    with pytest.raises(ValueError, match="column curve_ctr: row 4 has no finite window"):
        read_table(file)


def test_damage_and_other_files_are_refused(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="record it"):
        read_table(tmp_path / "absent.parquet")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"t\.parquet is not a whole Parquet file"):
        read_table(file)
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(ValueError, match=r"autorank\.format is 'none'"):
        read_table(file)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (b"autorank.about", b"{", "autorank.about: no JSON"),
        (b"autorank.about", b"{}", "autorank.about: metrics is missing"),
        (b"autorank.space", b"decisions: []", "autorank.space: this is no space"),
        (b"autorank.format", b"autorank recorded table, 2", "is 'autorank recorded table, 2'"),
    ],
)
def test_wrong_metadata_are_refused(file, key, value, said):
    read = pq.read_table(file)
    pq.write_table(read.replace_schema_metadata(read.schema.metadata | {key: value}), file)
    with pytest.raises(ValueError, match=said):
        read_table(file)


def test_another_space_is_refused(file):
    read = pq.read_table(file)
    text = read.schema.metadata[b"autorank.space"].replace(b"0.1", b"0.2")
    metadata = read.schema.metadata | {b"autorank.space": text}
    pq.write_table(read.replace_schema_metadata(metadata), file)
    with pytest.raises(ValueError, match="the space was changed"):
        read_table(file)


def test_a_table_without_runs_has_its_shapes():
    table = recorded_table()
    empty = made_table(SPACE, table.configs[:1], [], table.about)
    assert empty.curves.shape == (0, WINDOWS, 2) and empty.configs.shape == (0, 4)


def test_no_changed_byte_changes_a_value(file):
    """It is noticed, or in a part of the file that holds no value."""
    content, written = file.read_bytes(), recorded_table().digest()
    noticed = 0
    for place in range(5, len(content), 97):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            assert read_table(file).digest() == written
        except ValueError as error:
            assert str(file) in str(error)
            noticed += 1
    assert noticed > 20
