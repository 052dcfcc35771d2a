"""``hydra.sweeper.params``: what reads as a sweep is one, word for word, or is refused by key and value."""

import pytest
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from hydra_plugins.autorank_sweeper import _baseline, _command_line, _overrides, _params, _space
from tests.sweeper.test_faults import sweep

CONFIG = OmegaConf.create(
    {
        "lr": 0.1, "n": 3, "name": "base", "layers": [64, 64], "db": {"driver": "mysql"}, "nothing": None,
        "extra": {"a": 1, "b": "x", "deep": {"c": 1}}, "limits": {"min": 0, "max": 1},
        "spaces": {"lr": "tag(log,interval(1e-4,1))", "list": [1, 2], "one": 5},
    }
)  # fmt: skip


def read(text: str) -> dict[str, str]:
    params = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(params, dict)
    found = _params.read_params({str(k): v for k, v in params.items()}, CONFIG)
    assert set(_command_line.parse(found.lines, [], None)) == set(found.lines)  # Hydra can read it
    return found.lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("extra: {a: 'choice(1,2)', b: 'choice(x,y)', deep: {c: 'range(1,4)'}}",
         {"extra.a": "choice(1,2)", "extra.b": "choice(x,y)", "extra.deep.c": "range(1,4)"}),
        ("+extra: {new: 'choice(1,2)'}", {"+extra.new": "choice(1,2)"}),
        ("extra: {parameters: {a: {values: [1, 2]}}}", {"extra.a": "1,2"}),
        ("limits: {min: 'interval(0,1)', max: 2}", {"limits.min": "interval(0,1)", "limits.max": "2"}),
        ("lr: [0.1, 0.01]", {"lr": "0.1,0.01"}),
        ("n: '[1,2,3]'", {"n": "1,2,3"}),
        ("name: [a, b c, '1', null, true, 'x,y', '']", {"name": "a,b c,'1',null,true,'x,y',''"}),
        ("layers: [[64], [32, 32]]", {"layers": "[64],[32,32]"}),
        ("db: [mysql, postgresql]", {"db": "mysql,postgresql"}),
        ("db: {type: categorical, choices: [mysql, postgresql]}", {"db": "mysql,postgresql"}),
        ("nothing: {min: 0.5, max: 3}", {"nothing": "interval(0.5,3)"}),
        # Optuna's sweeper
        ("lr: {type: float, low: 0.001, high: 0.1, log: true}", {"lr": "tag(log,interval(0.001,0.1))"}),
        ("lr: {type: float, low: 0, high: 1, step: 0.25}", {"lr": "range(0,1.125,step=0.25)"}),
        ("lr: {type: float, low: 1, high: 2}", {"lr": "interval(1,2)"}),
        ("n: {type: int, low: 1, high: 100, log: true}", {"n": "tag(log,int(interval(1,100)))"}),
        ("n: {type: int, low: 1, high: 10, step: 2}", {"n": "range(1,10,step=2)"}),
        ("name: {type: categorical, choices: [a, b]}", {"name": "a,b"}),
        # Ax's
        ("n: {type: range, bounds: [1, 10]}", {"n": "int(interval(1,10))"}),
        ("lr: {type: range, bounds: [1, 10], value_type: float}", {"lr": "interval(1,10)"}),
        ("lr: {type: range, bounds: ['1e-4', 0.1], log_scale: true}", {"lr": "tag(log,interval(0.0001,0.1))"}),
        ("n: {type: choice, values: [1, 2], is_ordered: false}", {"n": "tag(categorical,choice(1,2))"}),
        ("lr: {type: fixed, value: 0.2}", {"lr": "0.2"}),
        # Nevergrad's
        ("lr: {lower: 0.001, upper: 1.0, log: true}", {"lr": "tag(log,interval(0.001,1.0))"}),
        ("lr: {lower: 1, upper: 12}", {"lr": "interval(1,12)"}),
        ("n: {lower: 1, upper: 12, integer: true}", {"n": "int(interval(1,12))"}),
        # W&B
        ("lr: {values: [0.1, 0.2]}", {"lr": "0.1,0.2"}),
        ("n: {min: 1, max: 5}", {"n": "int(interval(1,5))"}),
        ("lr: {min: 0.0, max: 5}", {"lr": "interval(0.0,5)"}),
        ("lr: {distribution: log_uniform_values, min: 0.0001, max: 0.1}", {"lr": "tag(log,interval(0.0001,0.1))"}),
        ("lr: {distribution: log_uniform, min: -2, max: 0}", {"lr": "tag(log,interval(0.135335,1.0))"}),
        ("lr: {distribution: q_uniform, min: 0, max: 1, q: 0.5}", {"lr": "range(0,1.25,step=0.5)"}),
        ("lr: {value: 3}", {"lr": "3"}),
        # Hydra's own
        ("n: ' choice(1,2) '", {"n": "choice(1,2)"}),
        ("name: 'choice(a b, c d)'", {"name": "choice(a b, c d)"}),
        ("n: choice(${n},2)", {"n": "choice(${n},2)"}),
        ("lr: ${spaces.lr}", {"lr": "tag(log,interval(1e-4,1))"}),
        ("n: ${spaces.list}", {"n": "1,2"}),
        ("n: ${spaces.one}", {"n": "${spaces.one}"}),
        ("{n: 5, name: b, nothing: null}", {"n": "5", "name": "b", "nothing": "null"}),
    ],
)  # fmt: skip
def test_what_reads_as_a_sweep_is_that_sweep(text, lines):
    assert read(text) == lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr: {low: 1}", "lacks high or upper or max"),
        ("lr: {type: float}", "lacks low"),
        ("lr: {init: 0.5, lower: 0.1}", "lacks high or upper or max"),
        ("lr: {type: flaot, low: 1, high: 2}", "type='flaot' is not known"),
        ("lr: {distribution: normal, mu: 0, sigma: 1}", "distribution='normal' is not known, or has no bounds"),
        ("lr: {type: float, low: 1, hihg: 2}", "not a known form"),
        ("lr: {type: float, low: 2, high: 1}", "is not below its upper bound"),
        ("lr: {type: float, low: a, high: 1}", "low='a' must be a number"),
        ("lr: {type: float, low: 1, high: 2, log: 'false'}", "must be true or false"),
        ("lr: {type: float, low: 1, high: 2, log: true, step: 0.1}", "exclude each other"),
        ("lr: {type: float, low: 0, high: 1, step: 0}", "above 0"),
        ("lr: {type: discrete_uniform, low: 0, high: 1}", "needs a step"),
        ("lr: {type: range, bounds: [1, 2, 3]}", "a list of two numbers"),
        ("lr: {values: [1, 2], min: 0}", "min=0 does not go with values"),
        ("lr: {values: [1, 2], probabilities: [0.1, 0.9]}", "probabilities=.* is not supported; leave it out"),
        ("lr: {values: 3}", "must be a list"),
        ("lr: {min: 0, low: 0, max: 1}", "mean the same"),
        ("lr: {a: 1}", "the config's own lr is 0.1"),
        ("lr: {}", "it is empty"),
        ("extra: {}", "it is empty"),
        ("name: []", "its list is empty"),
        ("name: ['choice(1,2)', 3]", "itself a sweep"),
        ("name: '[choice(1,2),3]'", "a sweep inside"),
        ("layers: [64, 32]", "own layers is a list"),
        ("lr: .nan", "not finite"),
        ("n: ${spaces.nope}", "cannot be resolved"),
        ("n: uniform(0,1)", "Unknown function 'uniform'"),
        ("n: choice(1,null)", "TypeError"),
        ('n: "\'choice(1,2)\'"', "its quotes make it a word"),
        ("n: 1..5", "one word"),
        ("n: 1|2|3", "one word"),
        ("n: '1:5'", "one word"),
        ("{extra.a: 'choice(1,2)', extra: {a: 'choice(1,2)'}}", "given twice"),
    ],
)  # fmt: skip
def test_what_can_be_no_sweep_is_refused_by_key_and_value(text, words):
    with pytest.raises(CompactHydraException, match=words) as caught:
        read(text)
    assert str(caught.value).startswith("hydra.sweeper.params: ")
    assert "write for example choice(1,2,4)" in str(caught.value)


def test_a_start_is_the_baseline_unless_another_is_given():
    params = {"lr": {"init": 0.02, "lower": 0.001, "upper": 1.0}}
    found = _params.read_params(params, CONFIG)
    overrides = _command_line.parse(found.lines, [], None)
    assert _baseline.with_starts([], found.starts, overrides) == ["lr=0.02"]
    assert _baseline.with_starts(["lr=0.5"], found.starts, overrides) == ["lr=0.5"]
    overrides = _command_line.parse(found.lines, ["lr=0.3"], None)  # the command line wins
    assert _baseline.with_starts([], found.starts, overrides) == []


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("lr={type:float,low:1,high:2}", "interval(1,2)"),
        ("lr=[1,2,3]", "[1,2,3]"),
        ("extra={a:3}", "{a:3}"),
        ("nothing={min:0,max:1}", "{min:0,max:1}"),
    ],
)
def test_on_the_command_line_hydras_own_meaning_holds_but_for_a_form_in_place_of_a_value(
    argument, text
):
    (override,) = _command_line.parse({}, [argument], None, lambda: CONFIG).values()
    found = (
        override.get_value_string()
        if override.is_sweep_override()
        else _overrides.override_text(override)
    )
    assert found.split("=")[-1] == text
    with pytest.raises(
        CompactHydraException, match="^lr={type:float,low:1} is not a sweep: it lacks"
    ):
        _command_line.parse({}, ["lr={type:float,low:1}"], None, lambda: CONFIG)


def test_a_dict_on_the_command_line_replaces_what_it_sets():
    params = {"extra.a": "choice(1,2)", "extra.b": "choice(x,y)"}
    assert list(_command_line.parse(params, ["extra={a:3}"], None, lambda: CONFIG)) == [
        "extra.b",
        "extra",
    ]


def test_one_choice_that_is_a_list_is_refused():
    overrides = _command_line.parse({"n": "choice([1,2,3])"}, [], None)
    with pytest.raises(ValueError, match=r"write n=choice\(1,2,3\) for choices"):
        _space.space_of_overrides(overrides, {}, {}, 5)


def test_through_hydra(tmp_path):
    """Nested and listed parameters are swept; a key that the app lacks ends it before anything is written."""
    params = "+hydra.sweeper.params={rate:[0.02,0.2],slow:{type:float,low:0,high:0.1}}"
    text = sweep(tmp_path / "a", params, "hydra.sweeper.searcher=random", trials=2)
    assert "rate=0.02,0.2 slow=interval(0,0.1)" in text and "rate=0.02 slow=0" in text
    text = sweep(tmp_path / "b", "+hydra.sweeper.params={rates:[1,2]}", trials=2, ok=False)
    assert "Key 'rates' is not in struct" in text and not (tmp_path / "b" / "trials.db").exists()
