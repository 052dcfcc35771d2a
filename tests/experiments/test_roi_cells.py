"""Which GPU a cell of `experiments.roi` sees."""

import sys

import pytest

from autorank.studies.roi_settings import RoiConfig, RoiPlan
from experiments import roi

SEEDS = 6


def config(tmp_path, **plan):
    return RoiConfig(
        runs=str(tmp_path),
        roi=RoiPlan(data=("log",), searchers=("random",), seeds=SEEDS, **plan),
        logs={"log": []},
    )


@pytest.mark.parametrize(
    ("given", "accelerators", "processes", "expected"),
    [
        ("", 0, 3, ["", "", ""]),
        ("", 2, 5, ["0", "1", "0", "1", "0"]),
        ("", 4, 2, ["0", "1"]),
        ("3,GPU-7", 2, 3, ["3", "GPU-7", "3"]),
    ],
)
def test_cells_side_by_side_share_the_gpus(
    monkeypatch, tmp_path, given, accelerators, processes, expected
):
    monkeypatch.setenv(roi.VISIBLE, given)
    cfg = config(tmp_path, accelerators=accelerators, processes=processes)
    assert roi.devices_of(cfg) == expected


def test_more_gpus_than_are_visible_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(roi.VISIBLE, "5")
    with pytest.raises(ValueError, match=r"roi\.accelerators=2, but CUDA_VISIBLE_DEVICES names 1"):
        roi.devices_of(config(tmp_path, accelerators=2))


def test_a_gpu_is_free_again_when_its_cell_has_ended(monkeypatch, tmp_path):
    # Each cell leaves what it sees, and fails where another cell sees the same at that time.
    text = """
import os, pathlib, sys, time
seen = os.environ["CUDA_VISIBLE_DEVICES"]
mark = pathlib.Path(sys.argv[1], "used-" + seen)
mark.open("x").close()
pathlib.Path(sys.argv[2]).write_text(seen)
time.sleep(0.05)
mark.unlink()
"""
    monkeypatch.delenv(roi.VISIBLE, raising=False)
    monkeypatch.setattr(
        roi,
        "command",
        lambda cfg, cell: [sys.executable, "-c", text, tmp_path, tmp_path / f"seen-{cell.seed}"],
    )
    cfg = config(tmp_path, accelerators=2, processes=2)
    roi.Cells(cfg).run(roi.cells_of(cfg))
    assert {path.read_text() for path in tmp_path.glob("seen-*")} <= {"0", "1"}
    assert len(list(tmp_path.glob("seen-*"))) == SEEDS
