"""What a ledger's identity holds: all that changes outcomes, nothing else, and older ledgers go on."""

import dataclasses
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import yaml

from autorank.app import identity as ids
from autorank.app.earlier_ledgers import OLD_PLAN, as_shared, carried_over, without_later
from autorank.app.search_job import free_name, open_ledger
from autorank.app.settings import (
    BackendConfig,
    PlanConfig,
    SearchConfig,
    TrackingConfig,
    TrainingConfig,
)
from autorank.base.records import digest, plain
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Schema
from autorank.fidelity.rules import FIDELITIES
from autorank.ledger.errors import LedgerMismatch
from autorank.ledger.ledger import Ledger
from autorank.searchers.autorank import AutorankConfig
from autorank.searchers.base import SEARCHERS, Context, Warm
from autorank.searchers.paper import PaperConfig
from autorank.space.parse import parse_space
from autorank.surrogates.predictor import ensemble

SPACE = parse_space({"model.width": "choice(8,16)"}, {}, {"model.width": 16}, grid_size=8)
CONFIG = SearchConfig(searcher=PaperConfig())


SCHEMA = Schema("t", (), (), ("click",), 2, 1, ("y",), "", "", {}, {})
DATA = Dataset(SCHEMA, np.zeros((2, 0), np.int32), np.zeros((2, 0)), np.zeros((2, 1), np.int8))


def own(config: SearchConfig) -> dict[str, str]:
    return ids.identity(config, SPACE, DATA)


def changed(config: SearchConfig = CONFIG, **groups) -> SearchConfig:
    """``search={"trials": 3}`` replaces settings of a group; other values replace whole settings."""
    return replace(
        config,
        **{
            name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
            for name, value in groups.items()
        },
    )


FREE = [
    changed(search={"workers": 7}),
    changed(search={"executor": "population"}),
    changed(search={"max_diverged": 0.9}),
    changed(search={"qps_seconds": 0.01}),
    changed(search={"metric": "ctr"}),
    changed(training={"devices": 0}),
    changed(backend=BackendConfig(kind="ray", num_workers=5)),
    changed(tracking=TrackingConfig(mode="disabled", tags=("a",))),
    changed(name="other", runs="elsewhere", fresh=True),
    changed(data={"folder": "elsewhere", "path": "moved"}),
]
BOUND = {
    "search.trials": changed(search={"trials": 3}),
    "search.seed": changed(search={"seed": 1}),
    "search.metric": changed(search={"metric": "cvr"}),
    "search.final_seeds": changed(search={"final_seeds": 2}),
    "training.precision": changed(training={"precision": "bfloat16"}),
    "training.dense_rate": changed(training={"dense_rate": 0.5}),
    "model.width": changed(model={"width": 32}),
    "searcher.batch_size": changed(searcher={"batch_size": 3}),
    "searcher.steps": changed(searcher={"steps": 3}),
    "predictor.members": changed(predictor={"members": 3}),
    "fidelity.slack": changed(fidelity={"slack": 0.2}),
    "fidelity.num_pilots": changed(fidelity={"num_pilots": 8}),
}


@pytest.mark.parametrize("config", FREE)
def test_what_changes_no_outcome_is_not_in_it(config):
    assert config != CONFIG
    assert own(config) == own(CONFIG)


@pytest.mark.parametrize("key", BOUND)
def test_what_does_is_and_is_refused_by_name(key, tmp_path):
    Ledger.open(tmp_path / "trials.db", own(CONFIG)).close()
    with pytest.raises(LedgerMismatch, match=rf"has {key}=.*this run's has {key}="):
        opened(tmp_path, BOUND[key])


def opened(folder, config) -> None:
    known_as = lambda found: carried_over(found, config, folder)  # noqa: E731
    Ledger.open(folder / "trials.db", own(config), known_as).close()


def earlier(config: SearchConfig) -> dict[str, str]:
    """What versions wrote that took sha256 over whole groups of settings, then shared by all searchers and rules."""
    shared = as_shared(plain(config))
    del shared["search"]["executor"]
    bare = {g: without_later(g, v) for g, v in shared.items() if isinstance(v, dict)}
    return {
        "data": DATA.fingerprint(),
        "space": SPACE.fingerprint(),
        "model and training": digest([bare["model"], bare["training"]]),
        "searcher": digest([bare["searcher"], bare["predictor"]]),
        "fidelity": digest([bare["fidelity"]]),
        "plan": digest([bare["search"]]),
    }


def test_an_earlier_ledger_goes_on_with_other_workers_and_stays_its_own(tmp_path):
    first = changed(search={"workers": 3})
    Ledger.open(tmp_path / "trials.db", earlier(first)).close()
    for workers in (1, 8):
        opened(tmp_path, changed(search={"workers": workers}))
    for key in ("search.trials", "search.seed"):
        with pytest.raises(LedgerMismatch, match=key):
            opened(tmp_path, BOUND[key])


@pytest.mark.parametrize("config", FREE)
def test_an_earlier_ledger_beside_its_settings_goes_on_with_any_free_one(config, tmp_path):
    first = as_shared(plain(config))
    del first["fidelity"]["eta"], first["training"]["held_out"]  # as if it had not had them
    old = earlier(config) | {
        "fidelity": digest([first["fidelity"]]),
        "model and training": digest([first["model"], first["training"]]),
    }
    Ledger.open(tmp_path / "trials.db", old).close()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first))
    with pytest.raises(LedgerMismatch, match=r"training\.held_out"):
        opened(tmp_path, changed(training={"held_out": "progressive"}))
    opened(tmp_path, CONFIG)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(CONFIG)))  # as a resumed search does
    opened(tmp_path, config)


def test_settings_that_are_not_those_of_the_ledger_are_not_believed(tmp_path):
    Ledger.open(tmp_path / "trials.db", earlier(BOUND["search.seed"])).close()
    for text in (yaml.safe_dump(plain(CONFIG)), "search: [1", "- 1", "search: 3", "\x00"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(LedgerMismatch, match="its plan is"):
            opened(tmp_path, CONFIG)


def test_a_name_that_another_searcher_used_is_refused_with_what_to_write(tmp_path):
    config = replace(CONFIG, name="mine", runs=str(tmp_path))
    folder = tmp_path / "mine"
    open_ledger(config, folder, own(config)).close()
    other = replace(config, searcher=AutorankConfig())
    said = (
        r"""its searcher has searcher.name="paper", this run's has searcher.name="autorank"\. .*"""
    )
    with pytest.raises(LedgerMismatch, match=said + "write name=mine-autorank to .*or fresh=true"):
        open_ledger(other, folder, own(other))
    (tmp_path / "mine-autorank").mkdir()
    (tmp_path / "mine-autorank-2-sweep").mkdir()
    assert free_name(other) == "mine-autorank-3"
    open_ledger(config, folder, own(config)).close()  # the run is as it was


def test_a_setting_that_is_newer_than_the_ledger_has_its_default(tmp_path):
    found = own(CONFIG)
    known = json.loads(found["plan"])
    del known["search.finalists"]
    Ledger.open(tmp_path / "trials.db", found | {"plan": json.dumps(known)}).close()
    with pytest.raises(
        LedgerMismatch, match="search.finalists=3, this run's has search.finalists=9"
    ):
        opened(tmp_path, changed(search={"finalists": 9}))
    opened(tmp_path, CONFIG)


def watched(record: type) -> tuple[type, set[str]]:
    """The record noting which of its settings are read."""
    read: set[str] = set()

    class Watched(record):
        def __getattribute__(self, name):
            read.add(name)
            return object.__getattribute__(self, name)

    return Watched, read


# An earlier search, without which its settings are not read.
WARM = Warm(
    np.zeros((1, 2, SPACE.num_decisions), np.int32),
    np.zeros((1, 2), np.float32),
    np.zeros((0, SPACE.num_decisions), np.int32),
)
# Settings that others depend on: the pool and the parents of local proposals are read only if there are any.


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_searcher_reads_all_of_its_settings(name):
    record, read = watched(SEARCHERS[name].settings)
    predictor = ensemble(SPACE.num_features, capacity=16, members=1, hidden=(2,), steps=1)
    # Without local proposals their settings are not read, which a search says; nor are those of another maximiser.
    settings = record(num_local=1) if "num_local" in SEARCHERS[name].fields else record()
    read.clear()
    searcher = SEARCHERS[name].make(SPACE, settings, Context(16, 4, predictor, warm=WARM))
    key = jax.random.key(0)
    state = jax.eval_shape(searcher.init, key)
    asked = jax.eval_shape(searcher.ask, key, state)
    jax.eval_shape(searcher.tell, state, asked.configs, asked.predicted)
    assert read & set(SEARCHERS[name].fields) == set(SEARCHERS[name].fields) - {
        "name",
        "candidates",
    }


@pytest.mark.parametrize("kind", FIDELITIES)
def test_a_fidelity_rule_reads_all_of_its_settings(kind):
    record, read = watched(FIDELITIES[kind].settings)
    settings = record()
    read.clear()
    rule = FIDELITIES[kind].make(settings, 0)
    rule.choose(np.random.default_rng(0).normal(size=(6, 20)), np.ones(20, bool))
    assert set(FIDELITIES[kind].fields) - read <= {"kind", "num_pilots"}


def test_every_setting_that_is_named_exists():
    fields = {"search": PlanConfig, "training": TrainingConfig}
    names = {g: {f.name for f in dataclasses.fields(c)} for g, c in fields.items()}
    assert all(key.split(".")[1] in names[key.split(".")[0]] for key in ids.NEVER)
    assert set(OLD_PLAN) <= names["search"]
