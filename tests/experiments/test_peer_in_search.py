"""Another package's searcher in a search of ours: it is told every trial once, and what it proposes is trained."""

import math

import jax
import numpy as np
import pytest

from autorank.searchers.base import Context
from experiments.comparison.peers.base import is_active
from experiments.comparison.peers.in_search import OptunaGpConfig, make_optuna_gp, peer_searcher
from tests.planted import planted_space

SPACE = planted_space()


class Scripted:
    """A peer that proposes the first choice of everything but a number that counts its asks."""

    def __init__(self, task, seed, trials, batch):
        self.task, self.batch, self.seed = task, batch, seed
        self.told, self.asks = [], 0

    def ask(self, n):
        self.asks += 1
        rows = []
        for i in range(n):
            values = {}
            for d in self.task.parents_first():
                if is_active(d, values):
                    values[d.name] = d.choices[(self.asks + i) % len(d.choices)]
            rows.append(values)
        return rows

    def tell(self, trials):
        self.told += trials


def test_a_peer_is_told_what_is_new_and_starts_again_with_a_new_search():
    made = []

    def start(*arguments):
        made.append(Scripted(*arguments))
        return made[-1]

    searcher = peer_searcher(SPACE, start, 3, 32)
    ask, tell = jax.jit(searcher.ask), jax.jit(searcher.tell)
    state = searcher.init(jax.random.key(0))
    state = tell(state, np.array([SPACE.baseline], np.int32), np.zeros((1, 2), np.float32))
    first = np.asarray(ask(jax.random.key(1), state).configs)
    (peer,) = made
    assert [t.loss for t in peer.told] == [0.0] and first.shape == (3, SPACE.num_decisions)
    assert peer.told[0].values == SPACE.decode(np.array(SPACE.baseline))
    metrics = np.array([[-0.5, 0.0], [math.nan, 0.0], [0.25, 0.0]], np.float32)
    state = tell(state, first, metrics)
    second = ask(jax.random.key(2), state)
    assert len(made) == 1 and peer.asks == 2
    told = [t.loss for t in peer.told[1:]]
    assert told[0] == -0.5 and math.isnan(told[1]) and told[2] == 0.25
    assert [t.values for t in peer.told[1:]] == [SPACE.decode(c) for c in first]
    # What the peer proposes is what is trained, in canonical form; what it repeats is marked.
    np.testing.assert_array_equal(second.configs, SPACE.canonical(second.configs))
    known = {tuple(c) for c in first.tolist()} | {tuple(SPACE.baseline)}
    marks = [tuple(c) in known for c in np.asarray(second.configs).tolist()]
    assert np.asarray(second.info["repeat"]).tolist() == marks
    ask(jax.random.key(1), tell(searcher.init(jax.random.key(0)), first[:1], metrics[:1]))
    assert len(made) == 2 and len(made[1].told) == 1


def test_without_its_environment_a_peer_is_refused_with_what_makes_it(monkeypatch):
    monkeypatch.setattr("experiments.comparison.peers.in_search.interpreter", lambda name: None)
    with pytest.raises(
        ValueError, match=r"searcher=optuna-gp needs an environment with optuna: sh"
    ):
        make_optuna_gp(SPACE, OptunaGpConfig(), Context(8))
