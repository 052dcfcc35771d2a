"""The benchmark of fronts: what it measures by hand, what it resumes, and what its table says."""

import csv

import numpy as np
import pytest

from autorank.benchmarks.mixed import mixed, planted_front, planted_optimum
from experiments.comparison import bench_front, front_table
from experiments.comparison.front_peers import FrontPeer
from experiments.comparison.fronts import front_task
from experiments.comparison.peers import catalogue
from experiments.comparison.peers.base import described


def test_the_planted_front_is_dominated_by_nothing():
    import jax

    front = planted_front(1)
    benchmark = mixed(1)
    sample = np.asarray(benchmark.space.sample(jax.random.key(0), 500))
    rows = [benchmark.space.decode(c) for c in sample]
    found = benchmark.query([*rows, planted_optimum(1)])
    for loss, cost in found:
        assert min(q for c, q in front if c <= cost + 1e-9) <= loss + 1e-9
    assert front[-1] == pytest.approx((found[-1, 1], 0.0), abs=1e-4)
    assert all(b[0] > a[0] and b[1] < a[1] for a, b in zip(front, front[1:], strict=False))


def test_the_measures_are_0_for_the_true_front_and_what_they_say_for_less():
    task = front_task("dhen/synthetic")
    space = task.benchmark.space
    every = [space.decode(c) for c in space.enumerate(space.cardinality())]
    truth = task.truth(every)
    whole = task.measure(truth, truth[:, 0])
    np.testing.assert_allclose(whole, 0.0, atol=1e-9)
    nothing = task.measure(truth[:0], truth[:0, 0])
    np.testing.assert_allclose(nothing[:2], 1.0)
    assert nothing.equal_quality == pytest.approx(-task.front[0][0])  # all that was to be saved
    # One configuration: its rectangle; the best at equal cost, and the cheapest at equal quality if it is.
    at = int(np.argmin(np.where(truth[:, 1] < -1, truth[:, 0], np.inf)))
    one = task.measure(truth[at : at + 1], truth[at : at + 1, 0])
    area = (task.reference[0] - truth[at, 1]) * (task.reference[1] - truth[at, 0])
    steps = [*(c for c, _ in task.front[1:]), task.reference[0]]
    total = sum(
        (end - c) * (task.reference[1] - q) for (c, q), end in zip(task.front, steps, strict=True)
    )
    assert one.hypervolume == pytest.approx(1 - area / total)
    assert one.equal_quality == pytest.approx(truth[at, 1] - task.front[0][0])
    best = truth[truth[:, 1] <= np.log(1.05), 0].min()
    scale = np.median(truth[:, 0]) - truth[:, 0].min()
    assert one.equal_cost == pytest.approx((truth[at, 0] - best) / scale)
    # What seemed equal and is not saves nothing; what was lucky is counted by its true quality.
    worst = int(np.argmax(truth[:, 0]))
    lucky = task.measure(truth[[worst]], np.array([-9.0]))
    assert lucky.equal_quality == pytest.approx(-task.front[0][0])
    assert lucky.equal_cost > 1 and lucky.hypervolume == 1


def test_the_known_costs_are_those_that_are_told():
    import jax.numpy as jnp

    for name in ("dhen/kuairand", "mixed/0"):
        task = front_task(name)
        configs = task.benchmark.space.enumerate(200)
        truth = task.truth([task.benchmark.space.decode(c) for c in configs])
        found = task.known_cost.log_ratio(jnp.asarray(configs))
        np.testing.assert_allclose(found, truth[:, 1], atol=1e-5)
        draw = np.random.default_rng(0)
        noisy = task.told(draw, 0.5, [task.benchmark.space.decode(c) for c in configs])
        np.testing.assert_array_equal(noisy[:, 1], truth[:, 1])
        spread = np.std(noisy[:, 0] - truth[:, 0])
        assert spread == pytest.approx(0.5 * task.spread, rel=0.3)


def test_a_run_is_written_once_and_ends_where_it_did(tmp_path):
    pytest.importorskip("optuna")  # the program names its samplers
    table = tmp_path / "front.csv"
    words = ["--searchers", "random", "optuna-nsga2", "--tasks", "dhen/kuairand", "--noise"]
    words += ["recorded", "--table", str(table), "--seeds"]
    bench_front.main([*words, "1"])
    first = table.read_text()
    bench_front.main([*words, "1"])
    assert table.read_text() == first
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["trials"]) for r in rows] == 2 * list(bench_front.POINTS)
    lacking = [float(r["tried"]) for r in rows]
    assert lacking[0] >= lacking[1] >= lacking[2] and lacking[3] >= lacking[4] >= lacking[5]
    with pytest.raises(SystemExit):
        bench_front.main(["--searchers", "nobody"])


@pytest.mark.parametrize("name", ["optuna-tpe", "smac-parego", "ax-nehvi"])
def test_a_peer_of_two_objectives_is_told_both_and_proposes_inside_the_space(name):
    if catalogue.interpreter(catalogue.FRONT_PEERS[name].environment) is None:
        pytest.skip(f"no environment of {name}: sh experiments/comparison/peers/make_env.sh")
    task = front_task("dhen/kuairand")
    peer = FrontPeer(name, described(task.benchmark), 0, 12)
    for _ in range(12):
        row = peer.ask_one()
        assert np.isfinite(task.truth([row])).all()  # in the table
        peer.tell_both(task.truth([row])[0])
    assert peer.cpu > 0 and peer.versions
    peer.close()


def test_a_peer_of_two_objectives_without_its_environment_says_how_to_make_it(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("AUTORANK_PEERS_FOLDER", str(tmp_path))
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"smac-parego needs an environment: sh .*make_env.sh default"
    ):
        FrontPeer("smac-parego", described(front_task("mixed/0").benchmark), 0, 12)


def test_a_paired_difference_of_planted_runs():
    rows = [
        {"task": t, "noise": "0", "searcher": s, "seed": str(i), "trials": "100"}
        | dict.fromkeys(front_table.MEASURES, f"{base + 0.01 * i}")
        for t in ("a", "b")
        for s, base in (("front", 0.1), ("random", 0.3))
        for i in range(5)
    ]
    found = front_table.values(rows, 100)
    text = front_table.apart(found["front"]["hypervolume"], found["random"]["hypervolume"])
    assert text.startswith("-0.200 [-0.2")
    assert front_table.cell(found["front"]["tried"]["a"]) == "0.120 (±0.007, 5)"
    assert front_table.shown([rows[0] | {"seed": "100"}, rows[0] | {"searcher": "front+a=1"}]) == []
