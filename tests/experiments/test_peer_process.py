"""A peer in a process of its own: its protocol, with stand-ins for the child; and each real one where it is there."""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autorank.benchmarks.base import Benchmark, number
from autorank.benchmarks.catalogue import matching
from autorank.space.space import Decision, Space
from experiments.comparison import run_table, runs
from experiments.comparison.peers import catalogue
from experiments.comparison.peers.base import (
    Told,
    active_only,
    checked,
    described,
    filled,
    step_seed,
    task_from,
)
from experiments.comparison.peers.process import PeerError, PeerProcess

CHILD = Path(__file__).with_name("peer_child.py")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark():
    rate, interval = number("rate", 0.01, 1.0, 8, log=True)
    momentum = Decision("momentum", (0.5, 0.9), "number", False, (("optimizer", ("sgd",)),))
    # The child comes before its parent: order is not that of the decisions.
    decisions = (momentum, Decision("optimizer", ("adam", "sgd")), rate)
    query = lambda rows: np.array([[r["rate"], 0.0] for r in rows])  # noqa: E731
    return Benchmark("suite", "task", Space(decisions, (0, 0, 0)), {"rate": interval}, query)


def stand_in(benchmark, how, **more):
    command = [sys.executable, str(CHILD), how]
    return PeerProcess(
        "", "module", "made", described(benchmark), 0, 10, 1, command=command, **more
    )


def test_a_task_survives_json(benchmark):
    task = described(benchmark)
    assert [d.name for d in task.parents_first()] == ["optimizer", "rate", "momentum"]
    assert task.baseline == {"momentum": 0.5, "optimizer": "adam", "rate": 0.01}
    plain = json.loads(json.dumps(task._asdict()))
    assert task_from(plain) == task
    adam = filled(task, {"optimizer": "adam", "rate": 0.2})
    assert adam == {"momentum": 0.5, "optimizer": "adam", "rate": 0.2}
    assert active_only(task, adam) == {"optimizer": "adam", "rate": 0.2}


def test_a_proposal_is_checked_and_choices_are_as_the_task_writes_them(benchmark):
    task = described(benchmark)
    good = {"optimizer": "sgd", "rate": 1, "momentum": 0.9}
    assert checked(task, good) == good
    for bad, message in (
        ({"optimizer": "sgd", "rate": 0.5}, "lacks momentum, which is active"),
        ({"optimizer": "adam", "rate": 0.5, "momentum": 0.9}, "has momentum, which are not active"),
        ({"optimizer": "lion", "rate": 0.5}, "optimizer: 'lion' is not among"),
        ({"optimizer": "adam", "rate": "0.5"}, "rate: '0.5' is not inside"),
        ({"optimizer": "adam", "rate": True}, "rate: True is not inside"),
        ({"optimizer": "adam", "rate": math.nan}, "rate: nan is not inside"),
        ([], "a mapping of decisions"),
    ):
        with pytest.raises(ValueError, match=message):
            checked(task, bad)


def test_asks_and_tells_reach_the_child_and_its_seconds_are_counted(benchmark):
    peer = stand_in(benchmark, "well")
    assert peer.versions == {"python": "3.11"} and peer.cpu == 0.25 and peer.asks_again
    assert peer.ask(2) == [{"optimizer": "adam", "rate": 0.5}] * 2
    peer.tell([Told({"optimizer": "adam", "rate": 0.5}, v) for v in (1.0, math.nan, 2.0)])
    assert peer.cpu == 0.75
    assert peer.ask(1) == [{"optimizer": "sgd", "rate": 0.125, "momentum": 0.9}]
    assert not peer.asks_again
    child = peer._child
    peer.close()
    assert not child.running
    peer.close()  # twice does no harm


def test_how_far_a_run_is_to_go_is_asked_and_what_stands_beside_a_loss_is_told(benchmark):
    peer = stand_in(benchmark, "well")
    row = {"optimizer": "adam", "rate": 0.5}
    assert peer.ask_run() == (row, 1)
    before = peer.cpu
    peer.tell([Told(row, 1.0, cost=2.0), Told(row, math.nan, units=1)])
    assert peer.cpu - before == 2.25  # a quarter, and both numbers
    assert peer.ask_run()[1] == 3
    peer.close()
    far = stand_in(benchmark, "far")
    with pytest.raises(RuntimeError, match="asked for 12 units of a run of 9"):
        far.ask_run()
    assert not far._child.running


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dies", "module.made ended with exit status 3\nout of memory, says the library"),
        ("babbles", "answered b'fitting the model... done', which is no JSON object"),
        ("short", r"was asked for 1 proposals and answered \[\]"),
        ("stray", "has momentum, which are not active"),
        ("outside", "rate: 7.0 is not inside"),
        ("silent", "did not answer within 1 s"),
    ],
)
def test_a_child_that_breaks_the_protocol_is_ended_and_its_last_words_are_told(
    benchmark, how, message
):
    peer = stand_in(benchmark, how, patience=60.0)
    if how == "silent":
        peer._child._patience = 1.0  # the interpreter's start may take longer
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=message):
        peer.ask(1)
    assert not peer._child.running and time.monotonic() - started < 30


def test_an_interpreter_that_is_not_there_and_a_peer_that_cannot_be_made(benchmark):
    with pytest.raises(FileNotFoundError):
        PeerProcess("/nowhere/python", "module", "made", described(benchmark), 0, 10, 1)
    with pytest.raises(RuntimeError, match="nobody.made ModuleNotFoundError: No module named"):
        PeerProcess(sys.executable, "nobody", "made", described(benchmark), 0, 10, 1)


@pytest.fixture
def peers(benchmark, monkeypatch):
    """Runs of peers are runs of a stand-in, on the benchmark as mixed/0: ``ways`` says how, ``asked`` what for."""
    ways, asked = ["well"], []

    def made(*arguments, **more):
        peer = stand_in(benchmark, ways[0])
        ask = peer.ask
        peer.ask = lambda n: asked.append(n) or ask(n)
        return peer

    for module in (runs, run_table):
        monkeypatch.setattr(module, "levels", lambda file: {"mixed/0": (0.0, 1.0)})
    monkeypatch.setattr(runs, "get", lambda task, data: benchmark)
    monkeypatch.setattr(runs, "interpreter", lambda environment: sys.executable)
    monkeypatch.setattr(runs, "PeerProcess", made)
    monkeypatch.setattr(runs.time, "process_time", lambda: 0.0)  # only the stand-in's seconds
    return ways, asked


def test_a_run_is_resumed_by_telling_and_says_what_ran_it(peers, tmp_path):
    _, asked = peers
    job = runs.Job("bore", "mixed/0", 1, 0.0, 0, 6)
    assert runs.run(job, tmp_path / "whole") == 6
    assert len(asked) == 6
    assert runs.run(job._replace(trials=4), tmp_path / "parts") == 4
    del asked[:]
    assert runs.run(job, tmp_path / "parts") == 2
    assert len(asked) == 2 + 2  # the stand-in asks again for its first two
    whole, parts = (runs.read(job.path(tmp_path / d)) for d in ("whole", "parts"))
    assert [line["values"] for line in whole] == [line["values"] for line in parts]
    assert {line["cpu"] for line in whole} == {0.25} == {line["tell_cpu"] for line in whole}
    assert [i for i, line in enumerate(parts) if "versions" in line] == [0, 4]
    rows = [{"searcher": "bore", "trials": 6, "seconds_per_suggestion": "0.5"}]
    known = {"devices": ["a core"], "versions": {"python": ["3.10"]}}
    before = {"git_revisions": ["abc"], "searchers": {"bore": known}}
    told = run_table.provenance(tmp_path / "parts", [rows], before)
    found = told["searchers"]["bore"]
    assert told["git_revisions"] == ["abc", run_table.revision()]
    assert found["versions"] == {"python": ["3.10", "3.11"]} and found["cpu_seconds"] == 3.0
    assert found["devices"] == list(dict.fromkeys(["a core", runs.processor_name()]))


def test_a_run_that_its_package_ends_keeps_what_it_found(peers, tmp_path):
    ways, asked = peers
    ways[0] = "fails"
    job = runs.Job("hebo", "mixed/0", 1, 0.0, 0, 25)
    with pytest.raises(PeerError, match="ValueError: nan in the model"):
        runs.run(job, tmp_path)
    path, count = job.path(tmp_path), len(asked)
    assert len(runs.read(path)) == 11 and "nan in the model" in runs.ended(path)["ended"]
    assert runs.run(job, tmp_path) == 0 and len(asked) == count  # it would fail again
    rows = list(run_table.summary(path))
    assert [row["trials"] for row in rows] == [10, 20, 25]
    assert [row["failed"] for row in rows] == [0, 9, 14]
    assert [float(row["regret"]) for row in rows] == [0.05, 0.0454545, 0.0454545]
    assert [row["seconds_per_suggestion"] for row in rows] == ["0.5", "0.5", "nan"]
    told = run_table.provenance(tmp_path, [rows], {})["searchers"]["hebo"]
    assert told["ended"] == {path.stem: runs.ended(path)["ended"]} and told["cpu_seconds"] == 10.0
    # A peer that dies may have been killed: its run is open.
    ways[0] = "dies"
    with pytest.raises(RuntimeError, match="ended with exit status 3"):
        runs.run(job._replace(seed=1), tmp_path)
    assert runs.ended(job._replace(seed=1).path(tmp_path)) == {}


def test_a_peer_without_its_environment_says_which_command_makes_it(
    benchmark, tmp_path, monkeypatch
):
    monkeypatch.setenv("AUTORANK_PEERS_FOLDER", str(tmp_path))
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    job = runs.Job("smac-rf", "mixed/0", 1, 0.0, 0, 6)
    with pytest.raises(RuntimeError, match="make_env.sh default"):
        runs.run(job, tmp_path)


def test_every_peer_has_an_adapter_and_every_environment_an_exact_list():
    every = (catalogue.PEERS, catalogue.FRONT_PEERS, catalogue.STOPPING_PEERS)
    for name, entry in itertools.chain(*(kind.items() for kind in every)):
        text = (ROOT / "experiments" / "comparison" / "peers" / f"{entry.module}.py").read_text()
        assert f"def {entry.factory}(task: Task, seed: int, trials: int, batch: int)" in text, name
        folder = catalogue.FOLDERS.get(entry.environment, entry.environment)
        lines = (
            (ROOT / "experiments/comparison/peers/environments" / f"{folder}.txt")
            .read_text()
            .split("\n")
        )
        pins = {line.split("==")[0].lower().replace("_", "-"): line for line in lines if line}
        assert all(line.count("==") == 1 for line in pins.values()), name
        for package in catalogue.ENVIRONMENTS[entry.environment].packages:
            assert package.lower() in pins, (name, package)
        assert not [line for line in lines if line.startswith(("nvidia", "cuda", "triton"))]


def test_the_child_needs_nothing_of_ours():
    # Adapters live where neither JAX nor our NumPy is.
    code = (
        "import sys; sys.modules['numpy'] = sys.modules['jax'] = None\n"
        "import experiments.comparison.peers.child, experiments.comparison.peers.base\n"
        "assert not [m for m in sys.modules if m.startswith('autorank')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_subset_for_slow_peers_covers_the_suites():
    assert len(catalogue.SLOW_TASKS) >= 8 and set(catalogue.SLOW_TASKS) <= set(matching("*"))
    # Nested spaces are made for a study of their size, forests for our own space, and peers do not run on pools.
    suites = {t.split("/")[0] for t in matching("*")} - {"nested", "tables", "forest"}
    assert {t.split("/")[0] for t in catalogue.SLOW_TASKS} == suites


def test_seeds_of_steps_differ():
    found = {step_seed(s, t) for s, t in itertools.product(range(20), range(100))}
    assert len(found) == 2000 and all(0 <= v < 2**31 for v in found)


# Seconds a proposal each; `AUTORANK_TEST_SLOW_PEERS=1` tests them too.
SLOW = ("ax-init20", "neps-bo", "hebo", "vizier-gp-ucb-pe")


@pytest.mark.parametrize("name", ["optuna-tpe", "catcma", "smac-rf", "bore", *SLOW])
def test_a_real_peer_proposes_inside_a_space_with_conditions_and_goes_on_after_a_stop(
    name, benchmark, tmp_path, monkeypatch
):
    if catalogue.interpreter(catalogue.PEERS[name].environment) is None:
        pytest.skip(f"no environment of {name}: sh experiments/comparison/peers/make_env.sh")
    if name in SLOW and "AUTORANK_TEST_SLOW_PEERS" not in os.environ:
        pytest.skip("set AUTORANK_TEST_SLOW_PEERS=1")
    failing = lambda rows: np.array(  # noqa: E731
        [[math.nan if r["optimizer"] == "sgd" else r["rate"], 0.0] for r in rows]
    )
    found = benchmark._replace(query=failing)
    monkeypatch.setattr(runs, "get", lambda task, data: found)
    monkeypatch.setattr(runs, "levels", lambda file: {"suite/task": (0.0, 1.0)})
    # NePS and HEBO have three and four initial trials in three decisions, BORE six finished ones.
    job = runs.Job(name, "suite/task", 2, 0.0, 0, {"bore": 14, "vizier-gp-ucb-pe": 4}.get(name, 8))
    path = job.path(tmp_path)
    assert runs.run(job, tmp_path) == job.trials
    whole = runs.read(path)
    for line in whole:
        for values in line["values"]:
            assert checked(described(found), values) == values
    assert {v is None for line in whole for v in line["loss"]} == {True, False}
    package = catalogue.ENVIRONMENTS[catalogue.PEERS[name].environment].packages[0]
    assert package in whole[0]["versions"]
    path.write_text("".join(json.dumps(line) + "\n" for line in whole[:-1]) + '{"values": [{"opti')
    assert runs.run(job, tmp_path) == 2
    again = runs.read(path)
    assert [line["values"] for line in again] == [line["values"] for line in whole]


def test_an_environment_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    script = ROOT / "experiments/comparison/peers/make_env.sh"
    environment = {"FOLDER": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = ["sh", str(script), "nobody"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "hebo.txt" in done.stderr and not list(tmp_path.iterdir())
