import pytest
from hydra import compose, initialize_config_dir

from autorank.app import build
from autorank.app.composition import settings
from autorank.app.earlier_ledgers import without_later
from autorank.app.programs import CONFIGS, register
from autorank.app.settings import BenchSearchConfig, PlanConfig, SearchConfig, SpaceConfig
from autorank.base.records import digest, flatten, plain, value_at, with_values
from autorank.fidelity.rules import PilotsConfig
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.surrogates.settings import loss_of

BASE = SearchConfig(model=DhenConfig(layer1=LayerConfig("cross", "linear"), num_layers=1))


def test_dotted_keys_reach_nested_records_and_leave_the_rest():
    changed = with_values(BASE, {"model.layer1.a": "dot", "training.dense_rate": 0.5})
    assert changed.model.layer1 == LayerConfig("dot", "linear")
    assert value_at(changed, "training.dense_rate") == 0.5
    assert BASE.model.layer1.a == "cross"


@pytest.mark.parametrize("key", ["model.depth", "modle.width", "model.width.x"])
def test_unknown_keys_are_named(key):
    with pytest.raises(ValueError, match=key.split(".")[0]):
        with_values(BASE, {key: 1})
    with pytest.raises(ValueError, match=key):
        value_at(BASE, key)


def test_flatten_takes_both_spellings():
    assert flatten({"a": {"b": 1}, "c.d": 2}) == {"a.b": 1, "c.d": 2}


def test_fingerprint_is_of_content():
    same, other = with_values(BASE, {}), with_values(BASE, {"search.seed": 1})
    assert digest([plain(BASE)]) == digest([plain(same)])
    assert digest([plain(BASE)]) != digest([plain(other)])
    assert plain(BASE)["searcher"]["alphas"] == [0.0, 0.1, 0.3]


def test_settings_that_came_later_leave_old_ledgers_their_fingerprint():
    import hashlib
    import json

    before = plain(PlanConfig())
    for name, setting in PlanConfig.__dataclass_fields__.items():
        if setting.metadata.get("later"):
            del before[name]
    assert "equal_ne_margin" not in before and "trials" in before
    old = hashlib.sha256(json.dumps([before], sort_keys=True).encode()).hexdigest()
    assert digest([without_later("search", plain(PlanConfig()))]) == old
    assert digest([without_later("search", plain(PlanConfig(equal_ne_margin=0.05)))]) != old


def test_the_number_of_final_seeds_may_be_text():
    assert PlanConfig(final_seeds="7").final_seeds == 7
    assert PlanConfig(noise_seeds=2, final_seeds=3).final_seeds == 3
    assert PlanConfig(final_seeds="auto").final_seeds == "auto"


def space(**decisions) -> SearchConfig:
    return with_values(
        BASE,
        {"space": SpaceConfig(decisions={k.replace("__", "."): v for k, v in decisions.items()})},
    )


def test_the_settings_are_the_baseline_of_the_space():
    made = build.space(space(model__width="choice(8,16)", model__layer1__a="choice(dot,cross)"))
    assert made.decode(made.baseline) == {"model.width": 16, "model.layer1.a": "cross"}


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ({"model__depth": "choice(1,2)"}, r"model\.depth is not a setting"),
        ({"model__width": "choice(8,32)"}, r"model\.width.*16"),
        ({"model__norm": "choice(post,batch)"}, r"model\.norm.*batch"),
        ({"search__seed": "choice(0,1)"}, r"only model\.\* and training\.\*"),
        ({"model__width": "choice()"}, r"model\.width"),
    ],
)
def test_bad_spaces_are_refused_by_key(decisions, words):
    with pytest.raises(ValueError, match=words):
        build.space(space(**decisions))


def test_contradicting_settings_are_refused():
    with pytest.raises(ValueError, match=r"search\.final_seeds='many' is not a number of seeds"):
        PlanConfig(final_seeds="many")
    with pytest.raises(ValueError, match=r"search\.final_seeds=0 must lie in"):
        PlanConfig(final_seeds=0)
    with pytest.raises(ValueError, match=r"search\.max_final_seeds of at least 2"):
        PlanConfig(final_seeds="auto", max_final_seeds=1)
    with pytest.raises(ValueError, match=r"fidelity\.num_pilots of at least 4"):
        PilotsConfig(num_pilots=2)
    with pytest.raises(
        ValueError, match=r"search\.metric=cvr is not measured with model\.head=ctr"
    ):
        build.budget(with_values(BASE, {"search.metric": "cvr"}))


def composed(program: str, record: type, *overrides: str):
    register()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return settings(compose(program, list(overrides)), record)


@pytest.mark.parametrize(
    ("loss", "key", "value"), [("margin", "margin", 0.25), ("huber", "delta", 2.5)]
)
def test_settings_of_a_loss_reach_it_in_a_search_and_in_a_comparison(loss, key, value):
    own = (f"predictor.loss={loss}", f"predictor.loss_settings.{key}={value}")
    search = composed("search", SearchConfig, "searcher=paper", *own)
    bench = composed("bench_search", BenchSearchConfig, "searchers=[paper]", *own)
    assert search.predictor == bench.predictor
    made = loss_of(loss, search.predictor.loss_settings)
    assert made.keywords[key] == value  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(
        ValueError, match=rf"predictor\.loss={loss} reads predictor\.loss_settings\.{key}"
    ):
        composed("search", SearchConfig, "searcher=paper", f"predictor.{key}={value}")


def test_settings_by_searcher_are_taken_by_the_comparison():
    made = composed("bench_search", BenchSearchConfig, "searcher.paper.steps=5", "predictor=single")
    assert made.searcher == {"paper": {"steps": 5}} and made.predictor.members == 1
