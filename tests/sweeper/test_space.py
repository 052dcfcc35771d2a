"""Hydra's sweep grammar as a space: every choice is the value that was written, or there is a clear error."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.autorank_sweeper import _command_line, _overrides, _space


def built(line: str, baseline=None, grid_size=5):
    swept, _ = _space.space_of_overrides(
        _command_line.parse({}, [line], None), baseline or {}, {}, grid_size
    )
    assert swept.space is not None
    lines = [text for c in swept.space.enumerate(99) for text in swept.overrides(c)]
    values = [OverridesParser.create().parse_override(text).value() for text in lines]
    return swept.space.decisions[0], [_overrides.without_quotes(v) for v in values]


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("x=interval(0,1)", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("x=int(interval(1,10))", [1, 3, 6, 8, 10]),
        ("x=int(interval(1.5,4.9))", [1, 2, 3, 4]),  # Hydra casts the ends
        ("x=tag(log,int(interval(1,1000)))", [1, 6, 32, 178, 1000]),
        ("x=int(tag(log,interval(1,1000)))", [1, 6, 32, 178, 1000]),
        ("x=range(1,10,step=3)", [1, 4, 7]),
        ("x=float(range(1,4))", [1.0, 2.0, 3.0]),
        ("x=range(0,1,step=0.25)", [0.0, 0.25, 0.5, 0.75]),
        ("x=tag(log,choice(1,10,100))", [1, 10, 100]),
        ("x=sort(3,1,2)", [1, 2, 3]),
        ("x=bool(choice(0,1))", [False, True]),
        ("x=null,1", [None, 1]),
        ("x=choice([1,2],[3])", [[1, 2], [3]]),
        ("x=choice({a:1,b:[x]},{})", [{"a": 1, "b": ["x"]}, {}]),
        ("x=choice('a b','c,d','e=f')", ["a b", "c,d", "e=f"]),
        ("x=choice('1',1)", ["1", 1]),  # a word and a number
        ("x=str(choice(1,true,null_))", ["1", "true", "null_"]),
        ('x=choice("it\'s",b)', ["it's", "b"]),
        ("+x=choice(a/b,1e-3)", ["a/b", 1e-3]),
    ],
)
def test_choices_are_the_values_that_were_written(line, choices):
    decision, values = built(line)
    assert values == choices == list(decision.choices)
    assert [type(v) for v in values] == [type(c) for c in choices]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x=shuffle(choice(1,2))", "drop shuffle"),
        ("x=choice(choice(1,2),3)", "write all values in one choice"),
        ("x=choice(1,2),3", "write all values in one choice"),
        ("~x=1,2", "only values can be swept over"),
        ("x=1,1", "write it once"),
        ("x=choice(a,a)", "write it once"),
        ("x=choice([1],[1])", "write it once"),
        ("x=tag(logg,choice(1,2))", "known are log, int, categorical"),
        ("x=tag(log,interval(0,1))", "interval above 0"),
        ("x=interval(5,1)", "interval\\(low, high\\)"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(line, words):
    with pytest.raises(ValueError, match=words) as caught:
        built(line)
    assert str(caught.value).startswith(("x:", "~x:"))


def test_the_apps_own_value_becomes_a_point_and_points_can_be_as_many_as_wanted():
    decision, values = built("lr=tag(log,interval(1e-4,1e-1))", {"lr": 0.0333})
    assert 0.0333 in values and len(values) == 6 and values == sorted(values)
    assert len(built("lr=tag(log,interval(1e-4,1e-1))", grid_size=1000)[0].choices) == 1000
