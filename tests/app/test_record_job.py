"""Recording a table: the same runs at once, in parts, after a stop or merged; nothing half-made looks finished."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autorank.app import record_job
from autorank.app.record_job import run_recording
from autorank.app.settings import RecordTableConfig, SpaceConfig
from autorank.base.programs import ProgramStats
from autorank.data.logs.synthetic import SyntheticConfig
from autorank.models.dhen import DhenConfig
from autorank.objectives.base import Objective, Outcome
from autorank.recorded.journal import read_journal
from autorank.recorded.table_file import read_table
from autorank.training.settings import TrainingConfig

WINDOWS = 6
DECISIONS = {
    "training.dense_rate": "tag(log, interval(1e-4, 1e-1))",
    "training.table_rate": "tag(log, interval(1e-2, 2e-1))",
    "model.norm": "choice(pre,post,none)",
}
TRAINED: list[tuple[tuple[int, ...], int]] = []  # what the objective below was asked for


class Stopped(Exception):
    """The process ends here."""


def fake_objective(config, data, space, slices=None, stop_after: int = 10**9) -> Objective:
    """Curves as a function of configuration and seed, in another order than asked; a sixth fail after two windows."""
    done = 0

    def evaluate(configs, seeds, fidelity):
        nonlocal done
        assert fidelity == 1.0
        for i in reversed(range(len(configs))):
            if done >= stop_after:
                raise Stopped
            done += 1
            TRAINED.append((tuple(configs[i].tolist()), int(seeds[i])))
            rng = np.random.default_rng([*configs[i].tolist(), int(seeds[i])])
            curve = rng.uniform(0.8, 1.0, (WINDOWS, 1))
            failed = "non-finite loss" if sum(configs[i]) % 6 == 5 else ""
            if failed:
                curve[2:] = np.nan
            ne = (float(np.nanmean(curve)),)
            yield i, Outcome(curve, ne, 1e4, 600, 0.01, 0.0, failed, {})

    stats = lambda: ProgramStats(0, 0, 0.0)  # noqa: E731
    return Objective("fake", data.fingerprint(), ("ctr",), 600, WINDOWS, evaluate, None, stats)


@pytest.fixture
def config(tmp_path, monkeypatch, tmp_path_factory) -> RecordTableConfig:
    TRAINED.clear()
    monkeypatch.setattr(record_job.build, "objective", fake_objective)
    return RecordTableConfig(
        name="toy",
        runs=str(tmp_path / "runs"),
        out=str(tmp_path / "out"),
        configurations=30,
        repeated=4,
        more_seeds=2,
        chunk=7,
        data=SyntheticConfig(num_rows=1000, folder=str(tmp_path_factory.getbasetemp() / "logs")),
        model=DhenConfig(norm="none"),
        training=TrainingConfig(batch_size=100, num_windows=WINDOWS),
        space=SpaceConfig(grid_size=6, decisions=DECISIONS),
    )


def table(config):
    return read_table(Path(config.out) / f"{config.name}.parquet")


def same_results(a, b) -> bool:
    """Everything but times and who recorded it."""
    fixed = ("number", "repeat", "seed", "flops", "rows")
    pairs = [(a.configs, b.configs), (a.curves, b.curves), (a.ne, b.ne)]
    pairs += [(a.columns[name], b.columns[name]) for name in fixed]
    return a.failed == b.failed and all(x.tobytes() == y.tobytes() for x, y in pairs)


def elsewhere(config, tmp_path, name, **changes):
    return replace(config, runs=str(tmp_path / name), out=str(tmp_path / f"{name}-out"), **changes)


def test_a_table_is_recorded_with_its_failures_and_provenance(config):
    assert run_recording(config) == 0
    found = table(config)
    assert len(found.failed) == 31 + 2 * 5 == len(TRAINED) == len(set(TRAINED))
    lost = found.lost
    assert 0 < lost.sum() < len(lost)
    assert (
        np.isfinite(found.curves[lost][:, :2]).all() and np.isnan(found.curves[lost][:, 2:]).all()
    )
    told = json.loads((Path(config.out) / "toy.json").read_text())
    assert told["statistics"]["failed_configurations"] == int(
        lost[(found.columns["number"] > 0) & (found.columns["repeat"] == 0)].sum()
    )
    assert told["settings"]["data"]["num_rows"] == 1000 and "folder" in told["settings"]["data"]
    assert told["sessions"][0]["versions"]["jax"] and told["bayes_ne"]["ctr"] < 1
    assert config.runs not in (Path(config.out) / "toy.json").read_text()
    assert run_recording(config) == 0 and len(TRAINED) == 41  # nothing again


@pytest.mark.parametrize("stop_after", [0, 1, 9, 40])
def test_a_stopped_recording_goes_on_and_is_the_same_table(config, tmp_path, monkeypatch, stop_after):  # fmt: skip
    def stopping(*arguments):
        return fake_objective(*arguments, stop_after=stop_after)

    monkeypatch.setattr(record_job.build, "objective", stopping)
    with pytest.raises(Stopped):
        run_recording(config)
    assert not Path(config.out).exists(), "nothing that looks finished"
    content = read_journal(Path(config.runs) / "toy" / "journal.jsonl")
    assert len(content.runs) == stop_after
    monkeypatch.setattr(record_job.build, "objective", fake_objective)
    assert run_recording(replace(config, chunk=5)) == 0
    assert len(TRAINED) == 41 == len(set(TRAINED))
    whole = elsewhere(config, tmp_path, "whole")
    assert run_recording(whole) == 0
    assert same_results(table(config), table(whole))
    # An interrupted session that recorded nothing leaves no trace in the table.
    assert len(table(config).about["sessions"]) == (2 if stop_after else 1)


def test_merged_ranges_are_one_table(config, tmp_path, capsys):
    ranges = [(0, 5), (5, 20), (25, None)]
    parts = [
        elsewhere(config, tmp_path, f"part{i}", first=first, count=count)
        for i, (first, count) in enumerate(ranges)
    ]
    left = [run_recording(part) for part in parts]
    assert left == [41 - 15, 41 - 20, 41 - 6]
    assert "configurations with missing runs: 0-4, 25-30" in capsys.readouterr().out
    assert len(TRAINED) == 41 == len(set(TRAINED))
    named = (f"{parts[2].runs}/toy", f"{parts[0].runs}/toy/journal.jsonl")
    both = elsewhere(config, tmp_path, "both", merge=named)
    assert run_recording(both) == 20 and not Path(both.out).exists()
    assert run_recording(replace(both, merge=(f"{parts[1].runs}/toy",))) == 0
    assert len(TRAINED) == 41
    whole = elsewhere(config, tmp_path, "whole")
    assert run_recording(whole) == 0
    assert same_results(table(both), table(whole))
    assert len(table(both).about["sessions"]) == 3


def test_a_finished_table_grows_also_without_its_journal(config, tmp_path):
    assert run_recording(config) == 0
    (Path(config.runs) / "toy" / "journal.jsonl").unlink()
    larger = replace(config, configurations=50, repeated=8, more_seeds=3)
    assert run_recording(larger) == 0
    assert len(TRAINED) == len(set(TRAINED)) == 51 + 3 * 9
    whole = elsewhere(larger, tmp_path, "whole")
    assert run_recording(whole) == 0
    assert same_results(table(larger), table(whole))
    with pytest.raises(ValueError, match="runs more than these settings plan; write configurations=50"):  # fmt: skip
        run_recording(config)
    assert len(table(larger).failed) == 78


def test_a_broken_line_is_reported_and_recorded_again(config, caplog):
    caplog.set_level(logging.WARNING, logger="autorank")
    run_recording(replace(config, count=10))
    journal = Path(config.runs) / "toy" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], lines[4][:50] + b"\n", *lines[5:-1], lines[-1][:30]]))
    assert run_recording(config) == 0
    last = len(lines)
    assert f"2 broken lines (5, {last})" in caplog.text
    assert len(TRAINED) == 43 and len(set(TRAINED)) == 41
    assert table(config).about["journal"]["broken_lines"] == 2


def test_other_settings_are_refused_by_name(config):
    run_recording(replace(config, count=3))
    for changed, said in (
        (replace(config, training=replace(config.training, batch_size=50)), "model and training"),
        (replace(config, seed=1), "seed"),
        (replace(config, space=replace(config.space, grid_size=5)), "space"),
        (replace(config, data=replace(config.data, num_rows=1100)), "data"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another table: .*{said}.* differ"):
            run_recording(changed)
    # What changes no outcome is no reason.
    assert run_recording(replace(config, search=replace(config.search, executor="compact"))) == 0
    (Path(config.runs) / "toy" / "journal.jsonl").unlink()
    with pytest.raises(ValueError, match=r"toy\.parquet belongs to another table: seed differ"):
        run_recording(replace(config, seed=1))


def test_a_summary_of_a_table_in_progress_and_of_a_finished_one(config, capsys):
    with pytest.raises(FileNotFoundError, match="is not there"):
        run_recording(replace(config, summary=True))
    run_recording(replace(config, count=12))
    capsys.readouterr()
    assert run_recording(replace(config, summary=True)) == 41 - 22
    said = capsys.readouterr().out
    assert "toy is not finished: 22 of 41" in said and "11 configurations, 22 runs" in said
    assert not Path(config.out).exists()
    run_recording(config)
    beside = Path(config.out) / "toy.json"
    before = beside.read_text()
    beside.unlink()
    assert run_recording(replace(config, summary=True)) == 0 and beside.read_text() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"repeated": 31}, "repeated=31"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"first": 31}, "first=31"),
        ({"count": 0}, "count=0"),
        ({"merge": ("x",), "summary": True}, "exclude each other"),
    ],
)
def test_bad_settings_are_refused(config, change, said):
    with pytest.raises(ValueError, match=said):
        replace(config, **change)
