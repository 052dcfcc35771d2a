"""A journal keeps every run that ended, whatever ends its process, and says what it lost."""

import json
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies
import numpy as np
import pytest

from autorank.recorded.journal import Journal, read_journal
from tests.recorded.making import FAILED, HEADER, all_runs, slices_of

RUNS = all_runs()


def written(path, runs=RUNS, device="a device"):
    with Journal(path, HEADER) as journal:
        journal.start_session({"device": device})
        for run in runs:
            journal.add(run)
    return read_journal(path)


def same(a, b) -> bool:
    return a.curve.tobytes() == b.curve.tobytes() and repr(a._replace(curve=0)) == repr(
        b._replace(curve=0)
    )


def test_runs_read_back_bit_for_bit_failures_with_the_windows_that_they_reached(tmp_path):
    content = written(tmp_path / "t" / "journal.jsonl")
    assert content.header == HEADER and content.sessions == [{"device": "a device"}]
    assert list(content.runs) == [(r.number, r.repeat) for r in RUNS] and not content.broken
    assert all(same(content.runs[r.number, r.repeat], r) for r in RUNS)
    lost = content.runs[FAILED, 1]
    assert lost.failed.startswith("non-finite") and np.isfinite(lost.curve[1:3]).all()
    assert np.isnan(lost.curve[3:]).all()


def test_losses_of_slices_are_kept_where_the_header_names_some(tmp_path):
    header = HEADER._replace(about=HEADER.about | {"slices": {"field": "tab", "count": 3}})
    with Journal(tmp_path / "journal.jsonl", header) as journal:
        journal.start_session({"device": "a device"})
        journal.add(RUNS[0]._replace(slices=slices_of(RUNS[0].curve)))
        journal.add(RUNS[1])  # of another table: without slices
    content = read_journal(tmp_path / "journal.jsonl")
    found = content.runs[RUNS[0].number, RUNS[0].repeat].slices
    assert found is not None and found.tobytes() == slices_of(RUNS[0].curve).tobytes()
    assert len(content.runs) == 1 and content.broken == [4]


@hypothesis.given(hypothesis.strategies.data())
@hypothesis.settings(max_examples=40)
def test_wherever_a_file_is_cut_its_whole_lines_are_read(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        written(path, RUNS[:6])
        content = path.read_bytes()
        first = content.index(b"\n") + 1
        cut = data.draw(hypothesis.strategies.integers(first, len(content)))
        path.write_bytes(content[:cut])
        whole = [r for r in RUNS[:6] if ends_of(content)[RUNS.index(r) + 2] <= cut]
        found = read_journal(path)
        assert [k for k in found.runs] == [(r.number, r.repeat) for r in whole]
        again = written(path, [r for r in RUNS if (r.number, r.repeat) not in found.runs])
        assert len(again.runs) == len(RUNS) and len(again.broken) == len(found.broken) <= 1


def ends_of(content: bytes) -> list[int]:
    """Where each line's text ends; the line feed may be missing."""
    return [i for i, byte in enumerate(content) if byte == ord("\n")]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_was_cut_off_is_counted_and_its_run_is_missing(tmp_path, cut):
    path = tmp_path / "journal.jsonl"
    written(path, RUNS[:4])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
    left = read_journal(path)
    # Without its line end alone, a line is whole.
    assert len(left.runs) == (4 if cut == -1 else 3) and len(left.broken) == (cut != -1)
    whole = written(path, RUNS[3:])
    assert len(whole.runs) == len(RUNS) and whole.broken == ([] if cut == -1 else [6])
    assert whole.runs[RUNS[5].number, RUNS[5].repeat].session == 1


def test_a_changed_digit_is_noticed(tmp_path):
    path = tmp_path / "journal.jsonl"
    written(path, RUNS[:3])
    text = path.read_text()
    seed = f'"seed":{RUNS[1].seed}'
    path.write_text(text.replace(seed, '"seed":12345'))
    content = read_journal(path)
    assert content.broken == [4] and len(content.runs) == 2


def test_the_first_of_two_equal_runs_counts(tmp_path):
    path = tmp_path / "journal.jsonl"
    written(path, RUNS[:3])
    other = RUNS[0]._replace(curve=RUNS[0].curve + 1)
    content = written(path, [other])
    assert content.twice == 1 and same(content.runs[0, 0], RUNS[0])


def test_another_table_and_other_files_are_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    written(path, RUNS[:1])
    other = HEADER._replace(identity=HEADER.identity | {"seed": "4"})
    with pytest.raises(ValueError, match="journal.jsonl belongs to another table: seed differ"):
        Journal(path, other)
    for content in (b"", b"hello\n", json.dumps({"format": 1}).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="its first line is not that of a journal"):
            read_journal(path)
    with pytest.raises(FileNotFoundError, match=r"experiments\.record_table"):
        read_journal(tmp_path / "absent")


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER), pytest.raises(ValueError, match="is being written by"):
        Journal(path, HEADER)
    Journal(path, HEADER).__exit__(None, None, None)


def _killed(path):
    journal = Journal(path, HEADER)
    journal.start_session({"device": "a device"})
    for run in RUNS[:5]:
        journal.add(run)
    journal._stream.write(b"00000000 half a li")
    journal._stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_kill_9_loses_no_run_that_was_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    content = written(path, RUNS[5:], "another")
    assert content.broken == [8] and len(content.runs) == len(RUNS)
    assert all(same(content.runs[r.number, r.repeat]._replace(session=0), r) for r in RUNS)
    assert [s["device"] for s in content.sessions] == ["a device", "another"]


def test_runs_are_taken_with_their_sessions(tmp_path):
    one = written(tmp_path / "one", RUNS[:20], "one")
    two = written(tmp_path / "two", RUNS[15:], "two")
    with Journal(tmp_path / "both", HEADER) as both:
        assert both.take(two.sessions, two.runs.values()) == len(RUNS) - 15
        assert both.take(one.sessions, one.runs.values()) == 15
        assert both.take(one.sessions, one.runs.values()) == 0
    content = read_journal(tmp_path / "both")
    assert [s["device"] for s in content.sessions] == ["two", "one"] and not content.twice
    assert content.runs[RUNS[16].number, RUNS[16].repeat].session == 0
    assert content.runs[RUNS[2].number, RUNS[2].repeat].session == 1
