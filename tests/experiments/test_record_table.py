"""The program as a user runs it: record, kill -9, go on, table, benchmark, search; and two machines merged."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autorank.recorded.journal import read_journal
from autorank.recorded.table_file import read_table
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
SPACE = """
grid_size: 5
decisions:
  model.norm: choice(post,none)
  training.dense_rate: tag(log, interval(1e-4, 1e-2))
  training.table_rate: tag(log, interval(1e-2, 2e-1))
  training.init_scale: tag(log, choice(0.3,1.0))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("record")
    (place / "configs" / "space").mkdir(parents=True)
    (place / "configs" / "space" / "tiny.yaml").write_text(SPACE)
    return place


def command(folder: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "experiments.record_table", "--config-dir", f"{folder}/configs"),
        *("space=tiny", "data.num_rows=3000", f"data.folder={folder}/data", "model.head=ctr"),
        *("training.batch_size=50", "training.num_windows=40", "search.executor=compact"),
        *("configurations=40", "repeated=5", "more_seeds=1", "chunk=20", *options),
    ]


def environment(folder: Path) -> dict[str, str]:
    mine = {"HYDRA_FULL_ERROR": "0", "AUTORANK_TABLES": f"{folder}/one"}
    return os.environ | mine


def program(folder: Path, *options: str, check: bool = True) -> str:
    started = warm.start(command(folder, *options), environment(folder))
    done = warm.ended(started, timeout=300)
    assert not check or done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_whole_way(folder):
    one = (f"runs={folder}/runs", f"out={folder}/one")
    journal = folder / "runs" / "tiny_synthetic" / "journal.jsonl"
    file = folder / "one" / "tiny_synthetic.parquet"
    process = subprocess.Popen(
        command(folder, *one),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(folder),
        start_new_session=True,
    )
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 5:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    held = len(read_journal(journal).runs)
    assert 3 <= held < 47 and not file.exists()
    assert "is not finished" in program(folder, "summary=true", *one)
    said = program(folder, *one)
    assert f"{held} of 47 runs of this range are recorded" in said
    assert "tau-b between two seeds" in said and "seed noise: " in said
    # On two machines, without a stop.
    for name, part in (("a", "count=15"), ("b", "first=15")):
        said = program(folder, part, f"runs={folder}/{name}", f"out={folder}/two")
        assert "is not finished" in said and not (folder / "two").exists()
    journals = f"merge=[{folder}/a/tiny_synthetic,{folder}/b/tiny_synthetic]"
    program(folder, journals, f"runs={folder}/ab", f"out={folder}/two")
    table, merged = read_table(file), read_table(folder / "two" / file.name)
    assert table.curves.shape == (47, 40, 1) and not table.lost.all()
    # One program at a time, so the same bits.
    np.testing.assert_array_equal(table.configs, merged.configs)
    np.testing.assert_array_equal(table.curves, merged.curves)
    np.testing.assert_array_equal(table.columns["seed"], merged.columns["seed"])
    assert len(table.about["sessions"]) == len(merged.about["sessions"]) == 2
    assert table.about["bayes_ne"]["ctr"] < 1
    # The table is a benchmark.
    bench = [
        *(sys.executable, "-m", "experiments.comparison.bench_search", "tasks=tables/*"),
        *("searchers=[random]", "trials=30", "batch=5", f"runs={folder}/bench"),
        f"table={folder}/bench.csv",
    ]
    done = warm.ended(warm.start(bench, environment(folder)), timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    last = (folder / "bench.csv").read_text().splitlines()[-1].split(",")
    assert last[:3] == ["tables", "tiny_synthetic", "random"] and 0 <= float(last[7]) < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["configurations=100000"], "configurations=100000: the space has 99 beside its baseline"),
        (["repeated=41"], "repeated=41"),
        (["merge=[absent]"], "absent is not there"),
        (["search.executor=fast"], "search.executor='fast'"),
    ],
)
def test_mistakes_are_named(folder, options, words):
    said = program(folder, f"runs={folder}/wrong", f"out={folder}/wrong", *options, check=False)
    assert words in said and "Traceback" not in said
