"""A search on a local Ray cluster of two worker processes: the same search, also when workers are killed."""

import functools
import gc
import json
from pathlib import Path

import numpy as np
import pytest

from autorank.objectives.base import Objective
from autorank.objectives.cluster import Workers, connect, distributed
from tests.objectives.workers_objectives import broken, deadly, slow
from tests.planted import planted_objective, planted_space
from tests.search.test_search import rows, search

ray = pytest.importorskip("ray")
SPACE = planted_space()
# Ray's own threads and sockets are still there when a test ends.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:os.fork.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:Tip.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    # Little of each core: actors of earlier tests may still be alive.
    workers = Workers(num_workers=2, num_cpus=0.25)
    connect(workers._replace(num_cpus=2.0))
    yield workers
    # Idle, its processes still use a thirtieth of a core.
    ray.shutdown()
    gc.collect()  # what warns of being open does so here


def farmed(cluster, folder: Path, victim=(), times: int = 0, **changes) -> Objective:
    make = functools.partial(deadly, folder, tuple(victim), times)
    return distributed(planted_objective(SPACE), make, cluster._replace(**changes))


def test_the_same_search_as_on_one_machine_with_a_worker_killed(cluster, tmp_path):
    local = tmp_path / "local"
    search(local, trials=12, num_pilots=6)
    victim = rows(local)[8][3]
    counts = tmp_path / "counts"
    counts.mkdir()
    summary = search(
        tmp_path / "ray", objective=farmed(cluster, counts, victim, 1), trials=12, num_pilots=6
    )
    assert rows(tmp_path / "ray") == rows(local)
    assert len(list(counts.glob("death-*"))) == 1
    assert len(list(counts.glob("worker-*"))) == 3  # two, and the one in place of the killed one
    assert summary["num_trials"] == 12


@pytest.mark.parametrize("population", [1, 3])
def test_a_trial_that_kills_two_workers_is_a_failed_trial(cluster, tmp_path, population):
    configs = SPACE.enumerate(7)
    objective = farmed(cluster, tmp_path, configs[2], 99, population=population)
    found = dict(objective.evaluate(configs, range(7), 1.0))
    assert sorted(found) == list(range(7))
    assert "2 workers died" in found[2].failed and np.isnan(found[2].curve).all()
    truth = dict(planted_objective(SPACE).evaluate(configs, range(7), 1.0))
    for i in set(range(7)) - {2}:
        np.testing.assert_array_equal(found[i].curve, truth[i].curve)
    assert found[2].flops == truth[2].flops
    assert json.dumps(found[2].details) == "{}"


def test_a_trial_that_hangs_loses_its_worker_and_fails(cluster):
    objective = distributed(
        planted_objective(SPACE), slow, cluster._replace(trial_seconds=0.5, attempts=1)
    )
    ((_, outcome),) = objective.evaluate(SPACE.enumerate(1), [0], 1.0)
    assert "took longer than 0.5 s" in outcome.failed


def test_a_worker_that_cannot_be_built_stops_at_once(cluster):
    from autorank.objectives.cluster import ClusterError

    objective = distributed(planted_objective(SPACE), broken, cluster)
    with pytest.raises(ClusterError, match="no data here.*must be where the workers run"):
        list(objective.evaluate(SPACE.enumerate(1), [0], 1.0))
