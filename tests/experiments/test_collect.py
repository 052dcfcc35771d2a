"""The README's table of searches: what it takes from a summary, and what it says where nothing was found."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.report.fake_run import write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def collect():
    spec = importlib.util.spec_from_file_location("collect", ROOT / "experiments" / "collect.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["collect"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"))
    return json.loads((folder / "summary.json").read_text())


def as_text(collect, summary):
    fields, rows = collect.FIELDS, collect.rows_of(summary)
    return [{k: "" if r.get(k) is None else str(r[k]) for k in fields} for r in rows]


def test_both_intervals_and_the_way_from_label_to_test(collect, summary):
    lines = collect.table(as_text(collect, summary)).splitlines()
    winner = next(line for line in lines if "| winner |" in line)
    gain = summary["winner"]["test"]["ctr"]
    entry = next(e for e in summary["finalists"] if "winner" in e["roles"])
    assert f"[{gain['low']:+.3f}, {gain['high']:+.3f}]" in winner
    assert f"[{gain['rows_low']:+.3f}, {gain['rows_high']:+.3f}]" in winner
    assert f"| {entry['label']:+.3f} -> " in winner and f"-> {gain['mean']:+.3f} %" in winner
    assert f"{summary['winner']['qps_ratio']['ratio']:.2f}x [" in winner
    assert "cheapest at equal NE (bound +0.050 % < 0.1 %)" in lines[-1]
    assert {line.count("|") for line in lines} == {10}


def test_nothing_at_equal_ne_has_a_row_with_the_nearest_miss(collect, summary):
    rule = summary["equal_ne"]
    miss = rule["tests"][0] | {"passed": False, "bound": 0.31, "mean": 0.2}
    changed = summary | {
        "winner_equal_ne": None,
        "equal_ne": rule | {"tests": [miss], "nearest_miss": miss},
    }
    last = collect.table(as_text(collect, changed)).splitlines()[-1]
    assert "none at equal NE; nearest: bound +0.310 %, not below 0.1 %" in last
    assert f"| {miss['flops_ratio']:.2f}x | - |" in last
    alone = miss | {"bound": None}
    changed["equal_ne"] = rule | {"tests": [alone], "nearest_miss": alone}
    assert "nearest: bound unknown" in collect.table(as_text(collect, changed))
    changed["equal_ne"] = rule | {"tests": [], "nearest_miss": None}
    assert "equal NE" not in collect.table(as_text(collect, changed))


def test_rows_of_earlier_versions_say_so(collect, summary):
    old = {k: v for k, v in summary.items() if k not in ("equal_ne", "verdict", "finalists")}
    rows = as_text(collect, old)
    assert "(an earlier version's rule)" in collect.table(rows)
    few = [{k: v for k, v in row.items() if k in collect.FIELDS[:23]} for row in rows]
    assert "(an earlier version's rule)" in collect.table(few)
    assert collect.finalists_of(old) == []


def test_finalists_are_a_row_each_and_replace_those_of_the_same_data(collect, summary, tmp_path):
    path = tmp_path / "finalists.csv"
    rows = collect.finalists_of(summary)
    assert len(rows) == len(summary["finalists"]) and set(rows[0]) == set(collect.FINALIST_FIELDS)
    for _ in range(2):
        kept = collect.grown(path, collect.FINALIST_FIELDS, rows, summary["name"])
    assert len(kept) == len(rows) == len(collect.read(path))
    assert float(kept[0]["label"]) == summary["finalists"][0]["label"]
