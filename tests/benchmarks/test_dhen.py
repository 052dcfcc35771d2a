"""The table of our own DHENs: its grid, its file, and the command that makes it against the compact build."""

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml

from autorank.app.settings import SearchConfig
from autorank.base.records import with_values
from autorank.benchmarks import base, catalogue
from autorank.benchmarks.dhen import DHEN_TASKS, SEED, dhen_space, dhen_table
from autorank.data.logs import synthetic
from autorank.data.prepare import store
from autorank.models.cost import flops_per_example
from autorank.space import grammar
from autorank.training.compact import Setting
from tests.making import make_objective

ROOT = Path(__file__).resolve().parents[2]
NAMES = dhen_space().names
SMALL = (
    "model.layer1.a=cross",
    "model.layer1.b=none",
    "model.num_layers=1",
    "model.norm=none",
    "model.width=8",
    "training.table_rate=0.06",
)
# num_layers, layer1.a, layer1.b, layer2.a, width, norm, dense_rate, table_rate, ne, flops
ROWS = [
    ("1", "dot", "none", "", "8", "none", "0.0003", "0.02", "0.9", "100"),
    ("2", "dot", "none", "fmb", "8", "none", "0.0003", "0.02", "0.7", "300"),
    ("1", "dot", "none", "", "8", "none", "0.0075", "0.02", "", "100"),
    ("2", "dot", "none", "fmb", "8", "none", "0.0075", "0.02", "0.8", "300"),
]


def written(path: Path, rows: list) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([(*NAMES, "ne", "flops"), *rows])
    return path


def test_the_grid_is_a_part_of_the_small_space():
    file = yaml.safe_load((ROOT / "configs" / "space" / "dhen_small.yaml").read_text())
    space = dhen_space()
    for d in space.decisions:
        domain = grammar.read(d.name, file["decisions"][d.name], file["grid_size"])
        assert (d.kind, d.log) == (domain.kind, domain.log)
        for choice in d.choices:
            assert (
                grammar.find(domain.choices, choice) is not None
                or grammar.snap(domain, choice) is not None
            ), (d.name, choice)
    # Two depths, of which one has a choice for its second layer: counted apart from the space's own counting.
    depth = ("model.num_layers", "model.layer2.a")
    others = math.prod(len(d.choices) for d in space.decisions if d.name not in depth)
    assert space.cardinality() == others * (1 + 2) == 1296
    rows = [space.decode(c) for c in space.enumerate(2000)]
    assert len({json.dumps(r, sort_keys=True) for r in rows}) == 1296
    for row in rows:
        assert ("model.layer2.a" in row) == (row["model.num_layers"] == 2)
        with_values(SearchConfig(), row)  # every decision is a setting


def test_a_table_gives_what_is_written_in_it(tmp_path):
    benchmark = dhen_table("synthetic", written(tmp_path / "t.csv", ROWS))
    assert benchmark.name == "dhen/synthetic" and benchmark.optimum == 0.7
    assert benchmark.space.cardinality() == 4
    for row in ROWS:
        values = {}
        for name, text in zip(NAMES, row, strict=False):
            if text:
                values[name] = next(
                    c
                    for d in dhen_space().decisions
                    if d.name == name
                    for c in d.choices
                    if str(c) == text
                )
        expected = [float(row[-2] or "nan"), math.log(float(row[-1]))]
        np.testing.assert_allclose(benchmark.query([values])[0], expected)
    assert benchmark.query([]).shape == (0, 2)
    with pytest.raises(ValueError, match="training.dense_rate"):
        benchmark.query([values | {"training.dense_rate": 0.0015}])  # of the grid, not recorded


@pytest.mark.parametrize(
    "rows, said",
    [
        (ROWS[:3], "1 configurations of the grid are missing"),
        ([*ROWS, ROWS[0]], "is recorded twice"),
        ([*ROWS[:3], ("2", *ROWS[0][1:])], "does not name exactly its active decisions"),
        (
            [*ROWS[:3], ("1", "dot", "none", "fmb", *ROWS[0][4:])],
            "does not name exactly its active decisions",
        ),
        ([*ROWS[:3], ("3", *ROWS[3][1:])], "model.num_layers='3' is none of 1, 2"),
    ],
    ids=["missing", "twice", "inactive missing", "inactive given", "unknown"],
)
def test_a_table_that_is_no_grid_is_refused(tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        dhen_table("synthetic", written(tmp_path / "t.csv", rows))


def test_bad_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="task='avazu' is not one of synthetic, kuairand"):
        dhen_table("avazu", tmp_path)
    with pytest.raises(FileNotFoundError, match="make_dhen_table --data kuairand"):
        dhen_table("kuairand", tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="model.depth is not a decision"):
        dhen_space({"model.depth": [1]})
    with pytest.raises(ValueError, match="model.width=64 is not one of its choices"):
        dhen_space({"model.width": [64]})
    assert "model.layer2.a" not in dhen_space({"model.num_layers": [1]}).names


@pytest.mark.parametrize("task", DHEN_TASKS)
def test_the_committed_tables(task):
    from experiments.comparison.runs import LEVELS

    file = catalogue.RESULTS / f"dhen_table_{task}.csv"
    benchmark = catalogue.get(f"dhen/{task}", Path("nowhere"))
    told = json.loads(file.with_suffix(".json").read_text())
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == told["configurations"] == benchmark.space.cardinality()
    assert sum(not r["ne"] for r in rows) == told["failed_configurations"]
    seeds = [f"{SEED}{i}" for i in range(told["seeds_each"])]
    for row in rows:
        runs = [row[s] for s in seeds]
        assert bool(row["ne"]) == all(runs)
        if row["ne"]:
            assert abs(float(row["ne"]) - np.mean([float(r) for r in runs])) < 2e-6
    best, typical = catalogue.levels(LEVELS)[benchmark.name]
    assert best == benchmark.optimum == min(float(r["ne"]) for r in rows if r["ne"])
    found = base.ask_table(benchmark, benchmark.space.enumerate(len(rows)))
    assert abs(typical - np.nanmedian(found[:, 0])) < 0.5 * (np.nanmax(found[:, 0]) - best)
    # What is recorded is configurations, not luck: two seeds order them alike.
    if told["seeds_each"] > 1:
        first, second = ([float(r[s]) for r in rows if all(r[s] for s in seeds)] for s in seeds[:2])
        tau = scipy.stats.kendalltau(first, second).statistic
        assert tau > 0.4 and abs(tau - told["kendall_tau_of_two_seeds"]) < 0.02


def test_the_command_trains_as_the_compact_build_and_goes_on_where_it_stopped(tmp_path, capsys):
    from experiments.comparison import make_dhen_table
    from experiments.comparison.dhen_training import rates_of

    options = ["--rows", "2500", "--batch", "16", "--models", "2"]
    options += [x for text in SMALL for x in ("--only", text)]
    options += [
        "--folder",
        f"{tmp_path}/data",
        "--work",
        f"{tmp_path}/work",
        "--out",
        f"{tmp_path}",
    ]
    table = tmp_path / "dhen_table_synthetic.csv"
    assert make_dhen_table.main([*options, "--minutes", "0"]) == 1
    assert "4 groups are left" in capsys.readouterr().out and not table.exists()
    assert make_dhen_table.main(options) == 0
    work = tmp_path / "work" / "dhen_table_synthetic.jsonl"
    # A kill in the middle of the last group's line: it is trained again, the others are not.
    whole, lines = table.read_text(), work.read_text().splitlines()
    assert [line.startswith('{"rows"') for line in lines] == [False, *[True] * 4, False]
    work.write_text("\n".join([*lines[:4], lines[4][:-20]]))
    assert make_dhen_table.main(options) == 0
    assert "4 groups, 3 there" in capsys.readouterr().out
    assert table.read_text() == whole
    with pytest.raises(ValueError, match="batch_size differ"):
        make_dhen_table.main([*options, "--batch", "15"])
    with pytest.raises(SystemExit):
        make_dhen_table.main([*options, "--only", "model.width=9"])

    benchmark = dhen_table("synthetic", table)
    log = store.load(tmp_path / "data" / "synthetic_table_2500_0")
    values = [benchmark.space.decode(c) for c in benchmark.space.enumerate(9)]
    assert [v["training.dense_rate"] for v in values] == [0.0003, 0.0015, 0.0075]
    assert log.schema.name == synthetic.source(10).name
    settings = []
    for v in values:
        config = with_values(SearchConfig(), v)
        settings.append(Setting(config.model, rates_of(config)))
    compact = make_objective(
        log,
        lambda c: settings[int(c[0])],
        head="ctr",
        batch_size=16,
        num_windows=100,
        warmup_share=SearchConfig().training.warmup_share,
        workers=1,
        executor="compact",
    )
    for seed in (0, 1):
        # Each run of the table has a seed of its own.
        found = compact.evaluate(np.arange(3)[:, None], [3 * seed + i for i in range(3)], 1.0)
        with table.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        for i, outcome in found:
            expected = outcome.curve[75:, 0].mean()
            assert abs(float(rows[i][f"{SEED}{seed}"]) - expected) < 1e-4, (i, seed)
            assert float(rows[i]["flops"]) == outcome.flops
    fields, dense = len(log.schema.fields), len(log.schema.dense)
    assert float(rows[0]["flops"]) == flops_per_example(settings[0].model, fields, dense)
    assert len({rows[i][f"{SEED}{s}"] for i, s in itertools.product(range(3), range(2))}) == 6
