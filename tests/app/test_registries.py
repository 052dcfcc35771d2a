"""One registry for each kind of part: a part from outside is configured, documented and tested by being registered."""

import dataclasses
import inspect
import json
import os
import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from autorank.app import idle
from autorank.app.composition import described_parts, register_groups, settings
from autorank.app.earlier_ledgers import carried_over
from autorank.app.identity import GROUPS
from autorank.app.identity import settings as identity_settings
from autorank.app.programs import CONFIGS, register
from autorank.app.search_job import run_search
from autorank.app.settings import PARTS, BackendConfig, SearchConfig
from autorank.base.plugins import load_plugins
from autorank.base.records import plain
from autorank.ledger.ledger import Ledger
from autorank.ledger.strict_json import dumps
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.models.interactions import MODULES, SHARED_SIZES
from autorank.searchers.base import SEARCHERS, SearcherConfig
from autorank.searchers.paper import PaperConfig
from autorank.surrogates.losses import LOSSES
from autorank.surrogates.settings import PredictorConfig
from tests import warm
from tests.app import outside_parts, test_identity
from tests.data import test_sources
from tests.models import test_cost, test_interactions
from tests.population import test_network
from tests.searchers import test_searchers
from tests.surrogates import test_losses

ROOT = Path(__file__).resolve().parents[2]
register()


def composed(*overrides: str) -> SearchConfig:
    """The settings that the search program would get."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return settings(compose("search", list(overrides)), SearchConfig)


@pytest.fixture
def outside():
    """One more part of each kind; gone again afterwards."""
    for _, _, add in outside_parts.KINDS.values():
        add()
    register_groups()
    yield
    for registry, name, _ in outside_parts.KINDS.values():
        registry.remove(name)
        ConfigStore.instance().repo.get(registry.key, {}).pop(f"{name}.yaml", None)


def test_a_searcher_from_outside_keeps_the_contract(outside):
    kit = test_searchers.kit_of("mine")
    given = {"kit": kit, "run": test_searchers.run_of(kit)}
    for check in test_searchers.CONTRACT:
        check(**{name: given[name] for name in inspect.signature(check).parameters})
    test_searchers.test_an_exhausted_space_repeats_and_says_so("mine")
    test_identity.test_a_searcher_reads_all_of_its_settings("mine")


def test_a_loss_from_outside_keeps_the_contract(outside):
    for check in test_losses.CONTRACT:
        check("power")
    assert PredictorConfig(loss="power", loss_settings={"power": 2.0}).loss_settings == {}
    with pytest.raises(
        ValueError, match="power: predictor.loss=margin does not read it, but power"
    ):
        PredictorConfig(loss_settings={"power": 3.0})


def test_a_module_from_outside_keeps_the_contract(outside):
    test_cost.test_each_module_agrees_with_the_compiler("square")
    for size in SHARED_SIZES:
        test_interactions.test_uses_lists_exactly_the_modules_whose_parameters_or_function_change(
            size
        )
    layers = (("square",), ("square", "linear"), ("linear", "square"), ("dot", "square"))
    configs = [
        DhenConfig(width=4, num_layers=1, num_tokens=2, layer1=LayerConfig(*names), ensemble=how)
        for names, how in zip(layers, ("sum", "concat", "sum", "weighted"), strict=True)
    ]
    test_network.compact_is_lane(configs)


def test_a_source_from_outside_keeps_the_contract(outside, tmp_path):
    test_sources.test_a_source_is_made_from_its_settings_or_says_what_it_needs("coins")
    test_sources.test_a_stream_is_prepared_alike_twice_and_its_encoders_give_the_arrays(
        "coins", tmp_path
    )


def test_help_lists_what_is_registered(outside):
    text = described_parts("data", "searcher", "fidelity", "predictor.loss")
    for registry in (*PARTS.values(), LOSSES):
        for name, entry in registry.items():
            assert f"{registry.key}={name}" in text and entry.summary in text


def test_a_search_with_parts_from_outside(outside, tmp_path):
    """Through Hydra's composition: a searcher, its own setting, a module and a log that the project does not know."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose(
            "search",
            [
                "searcher=mine",
                "searcher.own_field=3",
                "searcher.batch_size=2",
                "data=coins",
                "data.num_rows=1500",
                f"data.folder={tmp_path / 'data'}",
                "fidelity=full",
                "model.width=8",
                "model.num_layers=1",
                "model.layer1.a=square",
                "training.batch_size=50",
                "training.num_windows=10",
                "search.trials=4",
                "search.noise_seeds=2",
                "search.choice_seeds=1",
                "search.final_seeds=2",
                "search.finalists=1",
                "search.qps_seconds=0.01",
                "search.executor=compact",
                "tracking.mode=disabled",
            ],
        )
    config.space.decisions = {
        "model.layer1.a": "choice(square,linear)",
        "model.width": "choice(4,8)",
        "training.dense_rate": "choice(1e-3,1e-2)",
    }
    config.space.conditions = {}
    found = settings(config, SearchConfig)
    assert found.searcher == outside_parts.MineConfig(batch_size=2, own_field=3)
    summary = run_search(found, tmp_path / "run")
    assert summary["num_trials"] == 4
    with Ledger.read(tmp_path / "run" / "trials.db") as ledger:
        assert json.loads(ledger.get("identity")["searcher"])["searcher.own_field"] == 3


def test_nothing_is_left_behind():
    for registry, name, _ in outside_parts.KINDS.values():
        assert name not in registry
    assert not any("mine" in group for group in ConfigStore.instance().repo["searcher"])


# What users write.


@pytest.mark.parametrize("group", PARTS)
def test_every_part_is_an_option_with_its_own_defaults(group):
    for name, entry in PARTS[group].items():
        assert getattr(composed(f"{group}={name}"), group) == entry.settings()


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["searcher=paper", "searcher.steps=20"], "searcher.steps", 20),
        (["data=kuairand", "data.path=X"], "data.path", "X"),
        (["fidelity=halving", "fidelity.eta=2"], "fidelity.eta", 2.0),
        (["fidelity=fixed", "fidelity.fraction=.5"], "fidelity.fraction", 0.5),
        (["fidelity=fixed", "fidelity.num_pilots=4"], "fidelity.num_pilots", 4),
        (["data=table", "data.path=a.csv", "data.schema=b.yaml"], "data.schema", "b.yaml"),
        (["searcher=paper", "predictor.members=3"], "predictor.members", 3),
        (["searcher=paper", "predictor=single"], "predictor.members", 1),
        (["searcher=paper", "predictor.loss=hinge"], None, "predictor.loss='hinge' is not known"),
        (["searcher=paper", "predictor.loss=huber"], "predictor.loss", "huber"),
        (
            ["searcher=paper", "predictor=single", "predictor.loss_settings.margin=0.1"],
            "predictor.loss_settings",
            {"margin": 0.1},
        ),
        (["experiment=synthetic_2m"], "searcher.num_local", 5),
        (["experiment=toy", "searcher=paper"], "searcher.batch_size", 4),
        # A setting that the chosen part does not read is refused with the parts that do.
        (
            ["searcher.steps=20"],
            None,
            "searcher.steps has no effect with searcher=autorank.*searcher=paper",
        ),
        (
            ["fidelity.rungs=[.5]"],
            None,
            "fidelity.rungs has no effect with fidelity=pilots.*fidelity=halving",
        ),
        (
            ["data.seed=1"],
            None,
            "data.seed has no effect with data=movielens.*criteo_like or data=synthetic",
        ),
        (
            ["searcher.stepss=20"],
            None,
            "searcher.stepss is not a setting of searcher=autorank; write one of name",
        ),
        (["+predictor.foo=1"], None, "predictor.foo is not a setting; write one of members"),
        (["searcher.name=evolution"], None, "write searcher=evolution"),
        (["searcher.name=predictor"], None, "write searcher=paper"),
        (
            ["predictor.members=3"],
            None,
            "predictor.members has no effect with searcher=autorank.*searcher=paper",
        ),
        (
            ["backend.num_workers=8"],
            None,
            "backend.num_workers has no effect with backend=local; write backend=ray",
        ),
    ],
)
def test_overrides_are_read_or_refused_by_name(overrides, key, value):
    if key is None:
        with pytest.raises(ValueError, match=value):
            composed(*overrides)
        return
    group, name = key.split(".")
    assert getattr(getattr(composed(*overrides), group), name) == value


def test_settings_files_of_users_may_name_a_part_or_extend_one(tmp_path):
    (tmp_path / "searcher").mkdir()
    (tmp_path / "searcher" / "bare.yaml").write_text("name: paper\nsteps: 7\n")
    (tmp_path / "searcher" / "more.yaml").write_text("defaults: [paper, _self_]\nsteps: 8\n")
    for name, steps in (("bare", 7), ("more", 8)):
        found = composed(f"hydra.searchpath=[file://{tmp_path}]", f"searcher={name}").searcher
        assert found == PaperConfig(steps=steps)


def test_a_sweep_over_the_predictor_is_refused_before_anything_trains(tmp_path):
    """Also its last job, whose value is the default."""
    search = [sys.executable, "-m", "experiments.search", "-m", "predictor.members=1,10"]
    folders = [f"runs={tmp_path}", f"data.folder={tmp_path / 'data'}"]
    done = warm.ended(warm.start([*search, *folders], os.environ), timeout=300)
    assert done.returncode != 0 and "it is for searcher=paper" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "data").exists() and not list(tmp_path.rglob("trials.db"))


def test_what_has_no_effect_is_said():
    config = composed("data.hash_size=7", "search.final_half_width=0.2")
    said = " ".join(idle.idle_settings(config))
    assert "data.hash_size=7 has no effect" in said and "search.final_half_width=0.2" in said
    assert not list(idle.idle_settings(composed("search.final_seeds=auto")))
    with pytest.raises(ValueError, match="backend.attempts"):
        BackendConfig(attempts=3)


# Registration itself.


def test_a_record_must_bear_the_name_of_its_part():
    with pytest.raises(ValueError, match=r"write name: str = 'other' into MineConfig"):
        SEARCHERS.register("other", outside_parts.MineConfig)
    with pytest.raises(ValueError, match="already registered"):
        SEARCHERS.register("paper", PaperConfig)


def test_traits_are_the_same_for_all_parts_of_a_registry():
    for registry in (*PARTS.values(), LOSSES, MODULES):
        assert len({frozenset(entry.traits) for entry in registry.values()}) == 1, registry.key
        for name, entry in registry.items():
            for field in dataclasses.fields(entry.settings):
                assert field.default is not dataclasses.MISSING, (name, field.name)


def test_an_installed_package_registers_its_parts(tmp_path, monkeypatch):
    """The example of docs/extending.md, installed beside the project."""
    text = (ROOT / "docs" / "extending.md").read_text()
    (tmp_path / "my_parts.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    info = tmp_path / "my_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autorank.plugins]\nmy_parts = my_parts\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(SEARCHERS)
    load_plugins.cache_clear()
    try:
        assert "my_parts" in load_plugins()
        register_groups()
        (name,) = set(SEARCHERS) - before
        entry = SEARCHERS[name]
        assert issubclass(entry.settings, SearcherConfig)
        assert composed(f"searcher={name}").searcher == entry.settings()
        kit = test_searchers.kit_of(name)
        test_searchers.test_proposals_are_canonical_and_never_repeat(test_searchers.run_of(kit))
        (tmp_path / "my_parts.py").write_text("import nothing_of_this_name\n")
        sys.modules.pop("my_parts")
        load_plugins.cache_clear()
        with pytest.raises(ValueError, match="my_parts of the package my-parts cannot be imported"):
            load_plugins()
    finally:
        for name in set(SEARCHERS) - before:
            SEARCHERS.remove(name)
            ConfigStore.instance().repo["searcher"].pop(f"{name}.yaml", None)
        sys.modules.pop("my_parts", None)
        load_plugins.cache_clear()


# Ledgers of yesterday.

RUNS = {
    "autorank": ["search.trials=18", "fidelity=fixed", "searcher=autorank"],
    "paper": [
        "search.trials=12",
        "searcher=paper",
        "model.head=esmm",
        "searcher.steps=20",
        "searcher.samples=8",
        "predictor.members=2",
        "predictor.steps=10",
    ],
}
COMMON = [
    "experiment=toy",
    "data.num_rows=12000",
    "training.batch_size=100",
    "training.num_windows=20",
    "searcher.batch_size=3",
    "fidelity.num_pilots=4",
    "search.noise_seeds=2",
    "search.final_seeds=2",
    "search.finalists=1",
    "tracking.mode=disabled",
    "search.workers=1",
]


# What the Gaussian process did before it expected noise, before conditional decisions mattered less to it, and before
# it shunned what is likely to fail, and so what ledgers from then say.
BEFORE_NOISE = (
    "searcher.noise_median=0.001",
    "searcher.noise_sd=1.5",
    "searcher.noise_start=null",
    "searcher.noise_pace=1.0",
    "searcher.look_ahead=false",
    "searcher.repeats=false",
    "searcher.conditional_scale=1.0",
    "searcher.likely_failure_power=0.0",
)


@pytest.mark.parametrize("name", RUNS)
def test_a_ledger_from_before_the_records_goes_on(name, tmp_path):
    """Identities that searches wrote when all searchers shared one record and two had other names."""
    file = ROOT / "tests" / "app" / "identities_of_shared_records.json"
    written = {k: dumps(v) for k, v in json.loads(file.read_text())[name].items()}
    assert {"autorank": '"bayes"', "paper": '"predictor"'}[name] in written["searcher"]
    before = BEFORE_NOISE if name == "autorank" else ()
    config = composed(*COMMON, *RUNS[name], *before)
    expected = {item: dumps(identity_settings(item, plain(config))) for item in GROUPS}
    assert carried_over(written, config, tmp_path) == expected
    other = composed(*COMMON, *RUNS[name], *before, "searcher.alphas=[0.7]")
    found = carried_over(written, other, tmp_path)
    assert found["searcher"] == expected["searcher"]
    if before:  # the present default is another search
        now = carried_over(written, composed(*COMMON, *RUNS[name]), tmp_path)
        assert now["searcher"] == expected["searcher"]
