"""The README's table of searches: what it takes from a summary, and what it says where nothing was found."""

import json
from pathlib import Path

import pytest

from autorank.comparison import collection
from autorank.comparison.collection import Shelf, collect
from autorank.comparison.collection_table import BEGIN, END, table
from autorank.comparison.compare import read_all
from tests.comparison.fake_runs import settings
from tests.comparison.fake_runs import write_run as write_search
from tests.report.fake_run import write_run


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"))
    return json.loads((folder / "summary.json").read_text())


def as_text(summary):
    fields, rows = collection.FIELDS, collection.rows_of(summary)
    return [{k: "" if r.get(k) is None else str(r[k]) for k in fields} for r in rows]


def test_both_intervals_and_the_way_from_label_to_test(summary):
    lines = table(as_text(summary)).splitlines()
    winner = next(line for line in lines if "| winner |" in line)
    gain = summary["winner"]["test"]["ctr"]
    entry = next(e for e in summary["finalists"] if "winner" in e["roles"])
    assert f"[{gain['low']:+.3f}, {gain['high']:+.3f}]" in winner
    assert f"[{gain['rows_low']:+.3f}, {gain['rows_high']:+.3f}]" in winner
    assert f"| {entry['label']:+.3f} -> " in winner and f"-> {gain['mean']:+.3f} %" in winner
    assert f"{summary['winner']['qps_ratio']['ratio']:.2f}x [" in winner
    assert "cheapest at equal NE (bound +0.050 % < 0.1 %)" in lines[-1]
    assert {line.count("|") for line in lines} == {10}


def test_nothing_at_equal_ne_has_a_row_with_the_nearest_miss(summary):
    rule = summary["equal_ne"]
    miss = rule["tests"][0] | {"passed": False, "bound": 0.31, "mean": 0.2}
    changed = summary | {
        "winner_equal_ne": None,
        "equal_ne": rule | {"tests": [miss], "nearest_miss": miss},
    }
    last = table(as_text(changed)).splitlines()[-1]
    assert "none at equal NE; nearest: bound +0.310 %, not below 0.1 %" in last
    assert f"| {miss['flops_ratio']:.2f}x | - |" in last
    alone = miss | {"bound": None}
    changed["equal_ne"] = rule | {"tests": [alone], "nearest_miss": alone}
    assert "nearest: bound unknown" in table(as_text(changed))
    changed["equal_ne"] = rule | {"tests": [], "nearest_miss": None}
    assert "equal NE" not in table(as_text(changed))


def test_rows_of_earlier_versions_say_so(summary):
    old = {k: v for k, v in summary.items() if k not in ("equal_ne", "verdict", "finalists")}
    rows = as_text(old)
    assert "(an earlier version's rule)" in table(rows)
    few = [{k: v for k, v in row.items() if k in collection.FIELDS[:23]} for row in rows]
    assert "(an earlier version's rule)" in table(few)
    assert collection.finalists_of(old) == []


def test_finalists_are_a_row_each_and_replace_those_of_the_same_data(summary, tmp_path):
    path = tmp_path / "finalists.csv"
    rows = collection.finalists_of(summary)
    fields = collection.FINALIST_FIELDS
    assert len(rows) == len(summary["finalists"]) and set(rows[0]) == set(fields)
    for _ in range(2):
        kept = collection.grown(path, fields, rows, [f"{summary['name']} (ctr)"])
    assert len(kept) == len(rows) == len(collection.read(path))
    assert float(kept[0]["label"]) == summary["finalists"][0]["label"]


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    return Shelf(tmp_path / "all.csv", tmp_path / "finalists.csv", tmp_path / "README.md")


@pytest.fixture
def search(tmp_path, summary):
    """Finished searches whose summaries have models too: `name` says the data set."""

    def write(name: str, seed: int = 0, gain: float = -0.1, data: str = "d1", **changes) -> Path:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        config = settings("paper", seed, **changes)
        write_search(folder, config, gain, name=name, data=data)
        own = json.loads((folder / "summary.json").read_text())
        whole = summary | {k: own[k] for k in ("name", "seed", "num_trials", "metric", "status")}
        (folder / "summary.json").write_text(json.dumps(whole))
        return folder

    return write


def put(shelf: Shelf, *folders: Path, replace: tuple[str, ...] = ()) -> list[str]:
    results, left_out = read_all(map(str, folders))
    assert not left_out, left_out
    return collect(results, shelf, replace)


def data_of(shelf: Shelf) -> list[str]:
    return [row["data"] for row in collection.read(shelf.searches)]


def test_a_data_set_gains_rows_and_those_of_the_same_settings_are_replaced(search, shelf):
    assert put(shelf, search("a"), search("b")) == ["a (ctr)", "b (ctr)"]
    first = data_of(shelf)
    assert set(first) == {"a", "b"} and first == sorted(first)
    text = shelf.page.read_text()
    assert text.startswith("before\n") and "| a (ctr) | winner |" in text
    again = search("a", search__workers=7)  # which changes no outcome
    assert put(shelf, again) == ["a (ctr)"] and data_of(shelf) == first
    assert collection.up_to_date(shelf)
    shelf.page.write_text(text.replace("| a (ctr) | winner |", "| a (ctr) | loser |"))
    assert not collection.up_to_date(shelf)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predictor__members": 3}, "predictor.members=10 there and 3 here"),
        ({"seed": 1}, "search.seed=0 there and 1 here"),
        ({"data": "d2"}, "data=d1 there and d2 here"),
        ({"search__trials": 50}, "search.trials=8 there and 50 here"),
    ],
)
def test_rows_of_other_settings_are_not_replaced_unless_it_is_asked_for(
    search, shelf, changes, words
):
    put(shelf, search("a"), search("b"))
    before = {p: p.read_text() for p in (*shelf, shelf.settings)}
    other, fine = search("a", **changes), search("c")
    with pytest.raises(ValueError, match=words) as refused:
        put(shelf, fine, other)
    assert f"write --replace a to put {other} in their place, or leave it out" in str(refused.value)
    assert {p: p.read_text() for p in before} == before  # nothing of the others either
    put(shelf, fine, other, replace=("a",))
    assert set(data_of(shelf)) == {"a", "b", "c"}
    put(shelf, other)


def test_rows_without_known_settings_two_runs_of_one_table_and_unknown_names_are_refused(
    search, shelf
):
    run = search("a")
    put(shelf, run)
    with pytest.raises(ValueError, match=r"are both of a \(ctr\), which has one run in the table"):
        put(shelf, run, search("a", seed=1))
    with pytest.raises(ValueError, match=r"--replace b: no given run is of it; write one of a$"):
        put(shelf, run, replace=("b",))
    shelf.settings.unlink()
    with pytest.raises(ValueError, match="does not say of which settings; write --replace a"):
        put(shelf, run)
    put(shelf, run, replace=("a",))
