"""A search with a searcher that learns from repeats: it is shown the seed noise, and a repeat has a fresh seed."""

import jax.numpy as jnp
import numpy as np

from autorank.fidelity.rules import FIDELITIES, PilotsConfig
from autorank.ledger.ledger import Ledger
from autorank.ledger.rungs import climbs
from autorank.search.finals import pick_finalists
from autorank.search.run import run
from autorank.searchers.base import Proposal, Searcher, ToldState, append, empty
from tests.planted import planted_objective, planted_space
from tests.search.test_search import IDENTITY, budget

SPACE = planted_space()
ALWAYS = np.array([[2, 2, 2, 4, 1]], np.int32)


def stubborn() -> Searcher:
    """Proposes one configuration again and again, and says how many trials it was told."""

    def ask(key, state):
        configs = jnp.tile(jnp.asarray(ALWAYS), (6, 1))
        info = {"repeat": jnp.ones(6, bool), "told": jnp.full(6, state.history.count)}
        return Proposal(configs, jnp.full((6, 2), jnp.nan), info)

    def tell(state, configs, metrics):
        return ToldState(append(state.history, configs, metrics))

    return Searcher(lambda key: ToldState(empty(SPACE, 64)), ask, tell, repeats=True)


def test_repeats_have_fresh_seeds_and_the_baselines_runs_are_told(tmp_path):
    with Ledger.open(tmp_path / "trials.db", IDENTITY) as ledger:
        run(
            planted_objective(SPACE, noise=1e-3),
            SPACE,
            stubborn(),
            ledger,
            budget(trials=20),
            FIDELITIES["pilots"].make(PilotsConfig(num_pilots=8), 0),
            None,
            lambda event: None,
        )
        rows, policy = ledger.trials(), ledger.records("policy")
    # Three runs of the baseline and eight pilots, then rounds of six.
    assert [record["told"][0] for record in policy] == [11, 17]
    again = [t for t in rows if t.stage == "round"]
    assert len(again) == 12 and len({t.config for t in again}) == 1
    # The search's own seed is 0; the baseline has 1 to 3.
    assert [t.seed for t in again] == [0, *range(4, 15)]
    assert len({t.quality for t in again}) > 6  # other seeds, other labels
    verdict = {t.seed for t in rows if t.stage == "confirmation"}
    assert verdict.isdisjoint({t.seed for t in rows if t.stage != "confirmation"})
    found = [c for c in climbs(rows, ()) if c.trial.stage == "round"]
    assert [c.trial.seed for c in found] == [t.seed for t in again]


def test_finalists_are_those_that_are_believed_to_be_best(tmp_path):
    configs = [[i % 4, 0, 0, 0, 0] for i in range(4)]
    with Ledger.open(tmp_path / "trials.db", IDENTITY) as ledger:
        for trial in ledger.propose("round", 0, configs, seeds=[0] * 4, fidelity=1.0):
            ledger.finish(trial.id, {"flops": 1.0, "failed": ""}, trial.id / 10, 1.0)
        trials = ledger.trials()
    ids = [t.id for t in trials]
    believed = dict(zip(ids, (0.0, -0.1, -0.3, -0.2), strict=True))
    best = [tuple(c) for c in pick_finalists(trials, 2, 0.1)]
    assert best == [tuple(configs[0]), tuple(configs[1])]
    best = [tuple(c) for c in pick_finalists(trials, 2, 0.1, believed=believed)]
    assert best == [tuple(configs[2]), tuple(configs[3])]
