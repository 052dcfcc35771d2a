"""A whole search in lanes tells the ledger what the compact programs tell it, up to rounding."""

import numpy as np
from hydra import compose, initialize_config_dir

from autorank.app.composition import settings
from autorank.app.programs import CONFIGS, register
from autorank.app.search_job import run_search
from autorank.app.settings import SearchConfig
from autorank.ledger.ledger import Ledger

register()


def searched(folder, executor):
    """Random search, so that a rounded label changes no later trial; rungs, so that trials are promoted."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose(
            "search",
            [
                "searcher=random",
                "searcher.batch_size=4",
                "data=synthetic",
                "data.num_rows=3000",
                f"data.folder={folder / 'data'}",
                "fidelity=halving",
                "model.width=8",
                "model.num_layers=1",
                "model.layer1.a=linear",
                "model.num_tokens=4",
                "training.batch_size=50",
                "training.num_windows=10",
                "training.dense_rate=1e-3",
                "training.dense_eps=1e-3",
                "training.table_eps=1e-2",
                "search.trials=8",
                "search.noise_seeds=2",
                "search.choice_seeds=1",
                "search.final_seeds=2",
                "search.finalists=1",
                "search.qps_seconds=0.01",
                f"search.executor={executor}",
                "tracking.mode=disabled",
            ],
        )
    config.space.decisions = {
        "model.layer1.a": "choice(linear,cross)",
        "model.num_tokens": "choice(2,4)",
        "training.dense_rate": "choice(1e-3,3e-3,1e-2)",
    }
    config.space.conditions = {}
    summary = run_search(settings(config, SearchConfig), folder / executor)
    with Ledger.read(folder / executor / "trials.db") as ledger:
        return summary, ledger.trials()


def test_a_search_in_lanes_writes_the_ledger_of_the_compact_search(tmp_path):
    (compact, expected), (lanes, found) = (
        searched(tmp_path, executor) for executor in ("compact", "population")
    )
    assert set(lanes["executors"]) == {"population"} and set(compact["executors"]) == {"compact"}
    assert len(found) == len(expected) and lanes["num_compiles"] == 1

    def curves(trials):
        return {
            (t.stage, tuple(t.config), t.seed, t.fidelity): np.array(t.outcome["curve"], np.float64)
            for t in trials
        }

    left, right = curves(found), curves(expected)
    assert left.keys() == right.keys()
    for key, curve in left.items():
        np.testing.assert_allclose(curve, right[key], rtol=1e-3, atol=1e-4, err_msg=str(key))
