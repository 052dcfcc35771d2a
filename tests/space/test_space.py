"""Spaces against a plain-Python reading of their definition: activity, counts, text, refusals."""

import itertools
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autorank.app import build
from autorank.app.settings import SearchConfig, SpaceConfig
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.space.grammar import read
from autorank.space.parse import parse_space
from autorank.space.space import Decision, Space

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "space"

DECISIONS = {
    "m.layers": "choice(1,2,3)",
    "m.layer1.a": "choice(dot,conv)",
    "m.layer2.a": "choice(none,dot,conv)",
    "m.layer3.a": "choice(none,dot,conv)",
    "m.kernel": "tag(categorical, choice(1,3))",
    "t.rate": "tag(log, interval(1e-4, 1e-1))",
}
CONDITIONS = {
    "m.layer2.*": {"m.layers": [2, 3]},
    "m.layer3.*": {"m.layers": [3]},
    "m.kernel": {"m.layer*.*": ["conv"]},
}
BASELINE = {
    "m.layers": 2,
    "m.layer1.a": "dot",
    "m.layer2.a": "dot",
    "m.layer3.a": "none",
    "m.kernel": 3,
    "t.rate": 2e-3,
}


def small_space() -> Space:
    return parse_space(DECISIONS, CONDITIONS, BASELINE, grid_size=4)


def is_active(space: Space, config, i: int) -> bool:
    """The definition, recursively."""
    decision = space.decisions[i]
    if not decision.parents:
        return True
    for name, values in decision.parents:
        p = space.names.index(name)
        if space.decisions[p].choices[config[p]] in values and is_active(space, config, p):
            return True
    return False


def brute_canonical(space: Space) -> set[tuple[int, ...]]:
    every = itertools.product(*(range(len(d.choices)) for d in space.decisions))
    return {
        tuple(c if is_active(space, config, i) else space.baseline[i] for i, c in enumerate(config))
        for config in every
    }


@st.composite
def arguments(draw) -> tuple:
    """Of a space: random acyclic conditions, parents not always listed before their children."""
    k = draw(st.integers(1, 6))
    sizes = [draw(st.integers(1, 3)) for _ in range(k)]
    order = draw(st.permutations(range(k)))
    decisions = []
    for i in range(k):
        before = order[: order.index(i)]
        chosen = draw(st.lists(st.sampled_from(before), max_size=3)) if before else []
        parents = tuple(
            (f"d{p}", tuple(draw(st.sets(st.integers(0, sizes[p] - 1), min_size=1))))
            for p in chosen
        )
        decisions.append(Decision(f"d{i}", tuple(range(sizes[i])), "categorical", False, parents))
    baseline = tuple(draw(st.integers(0, size - 1)) for size in sizes)
    return tuple(decisions), baseline


@settings(max_examples=150, deadline=None)
@given(arguments=arguments())
def test_cardinality_and_enumeration_equal_brute_force(arguments):
    space = Space(*arguments)
    expected = brute_canonical(space)
    listed = space.enumerate(10**6)
    assert space.cardinality() == len(expected)
    assert len(listed) == len(expected)
    assert {tuple(row) for row in listed.tolist()} == expected
    space.validate(listed)
    assert len(space.enumerate(2)) == min(2, len(expected))


@settings(max_examples=60, deadline=None)
@given(arguments=arguments(), data=st.data())
def test_encode_inverts_decode(arguments, data):
    space = Space(*arguments)
    row = space.enumerate(50)[data.draw(st.integers(0, min(50, space.cardinality()) - 1))]
    values = space.decode(row)
    assert set(values) == {n for i, n in enumerate(space.names) if is_active(space, row, i)}
    np.testing.assert_array_equal(space.encode(values), row)
    np.testing.assert_array_equal(space.encode(space.decode(row, inactive=True)), row)


@pytest.mark.parametrize("seed", range(3))
def test_array_functions_follow_the_definition(seed):
    space = small_space()
    raw = np.random.default_rng(seed).integers(0, space.num_choices, (64, 6)).astype(np.int32)
    expected = np.array([[is_active(space, row, i) for i in range(6)] for row in raw])
    np.testing.assert_array_equal(space.active(raw), expected)
    canonical = np.where(expected, raw, np.array(space.baseline))
    np.testing.assert_array_equal(space.canonical(raw), canonical)
    np.testing.assert_array_equal(space.canonical(canonical), canonical)
    np.testing.assert_array_equal(space.active(canonical), expected)
    features = []
    for row, active in zip(canonical, expected, strict=True):
        line = [row[0] / 2]
        for i in (1, 2, 3, 4):
            line += [float(active[i] and row[i] == j) for j in range(space.num_choices[i])]
        features.append([*line, row[5] / 3])  # a log grid is even in the logarithm
    np.testing.assert_allclose(space.features(canonical), features, atol=1e-5)
    assert space.num_features == len(features[0])


def test_chains_of_conditions_are_followed_to_their_end():
    chain = tuple(
        Decision(f"d{i}", (0, 1), parents=((f"d{i - 1}", (1,)),) if i else ()) for i in range(5)
    )[::-1]
    space = Space(chain, (0,) * 5)
    assert space.cardinality() == 6  # 0, 10, 110, 1110, 11110, 11111
    np.testing.assert_array_equal(
        space.active(jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 0]])),
        [[True] * 5, [False, False, True, True, True], [False] * 4 + [True]],
    )


def test_samples_are_canonical_and_uniform_per_decision():
    space = small_space()
    rows = np.asarray(jax.jit(space.sample, static_argnums=1)(jax.random.key(0), 4000))
    assert rows.dtype == np.int32
    space.validate(rows)
    assert {tuple(r) for r in rows.tolist()} <= brute_canonical(space)
    for i in (0, 1, 5):
        assert stats.chisquare(np.bincount(rows[:, i])).pvalue > 1e-3
    third = rows[rows[:, 0] == 2][:, 3]
    assert stats.chisquare(np.bincount(third)).pvalue > 1e-3
    assert space.sample(jax.random.key(0), 0).shape == (0, 6)


def test_mutation_changes_what_it_says():
    space = small_space()
    parents = space.sample(jax.random.key(1), 400)
    mutate = jax.jit(space.mutate)
    active = np.asarray(space.active(parents))
    for rate in (0.0, 0.3, 1.0):
        children = np.asarray(mutate(jax.random.key(2), parents, rate))
        space.validate(children)
        both = active & np.asarray(space.active(children))
        changed = (children != np.asarray(parents)) & both
        assert changed.any(axis=1).all()
        if rate == 0.0:
            assert (changed.sum(axis=1) == 1).all()
            assert (np.bincount(np.argwhere(changed)[:, 1], minlength=6) > 0).all()
        if rate == 1.0:
            np.testing.assert_array_equal(changed, both)
    single = Space((Decision("d", (1,)),), (0,))
    np.testing.assert_array_equal(single.mutate(jax.random.key(0), jnp.zeros((2, 1), int), 1.0), 0)


def test_a_newly_active_decision_is_drawn_anew():
    space = small_space()
    parents = jnp.tile(jnp.array([[0, 0, 1, 0, 1, 0]]), (600, 1))  # layers 2 and 3 inactive
    children = np.asarray(space.mutate(jax.random.key(0), parents, 0.0))
    deeper = children[children[:, 0] == 2]
    assert len(deeper) > 20
    assert set(deeper[:, 2]) == {0, 1, 2} and set(deeper[:, 3]) == {0, 1, 2}


def test_equal_content_is_one_space():
    first, second = small_space(), small_space()
    assert first == second and hash(first) == hash(second) and len(first.fingerprint()) == 64
    traces = []

    @partial(jax.jit, static_argnums=0)
    def active(space, rows):
        traces.append(1)
        return space.active(rows)

    rows = jnp.zeros((2, 6), jnp.int32)
    active(first, rows), active(second, rows)
    assert len(traces) == 1
    ones, trues = (Space((Decision("d", c),), (0,)) for c in ((1, 0), (True, False)))
    assert ones != trues and ones != "d"
    moved = Space(first.decisions, (0, *first.baseline[1:]))
    assert moved != first


@pytest.mark.parametrize(
    ("text", "choices", "kind"),
    [
        ("choice(1,2,4)", (1, 2, 4), "number"),
        ("tag(categorical, choice(1,2))", (1, 2), "categorical"),
        ("choice(a,'b c',true)", ("a", "b c", True), "categorical"),
        ("choice(true,false)", (True, False), "categorical"),
        ("range(1,5)", (1, 2, 3, 4), "number"),
        ("range(0,1,0.25)", (0.0, 0.25, 0.5, 0.75), "number"),
        ("interval(1,2)", (1.0, 1.25, 1.5, 1.75, 2.0), "number"),
        ("tag(log, interval(1e-4, 1))", (1e-4, 1e-3, 1e-2, 1e-1, 1.0), "number"),
        ("tag(int, interval(1, 4))", (1, 2, 3, 4), "number"),
        ("int(interval(1, 3))", (1, 2, 3), "number"),
        ("tag(int, log, interval(1, 16))", (1, 2, 4, 8, 16), "number"),
        ("tag(int, interval(1.5, 2.5))", (2,), "number"),
        ("1,2", (1, 2), "number"),
    ],
)
def test_text_becomes_choices(text, choices, kind):
    domain = read("a.b", text, 5)
    assert (domain.choices, domain.kind) == (choices, kind)
    assert [type(c) for c in domain.choices] == [type(c) for c in choices]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("choice()", "a.b"),
        ("choice(1,2,1)", "a.b: choice 1 stands twice"),
        ("choice(1,1.0)", "a.b: choice 1.0 stands twice"),
        ("choice([1],[2])", r"a.b: choice \[1\]"),
        ("choice(1,inf)", "a.b: choice inf .* finite"),
        ("7", "a.b: '7' offers no choice"),
        ("glob(*)", "a.b: .* offers no choice"),
        ("shuffle(choice(1,2))", "a.b: .*shuffle"),
        ("range(3,3)", "a.b: .* no choices"),
        ("interval(2,1)", "a.b: the interval"),
        ("interval(1,1)", "a.b: the interval"),
        ("interval(1,inf)", "a.b: the interval"),
        ("tag(log, interval(0,1))", "a.b: the tag 'log' needs an interval above 0"),
        ("tag(log, choice(0,1))", "a.b: the tag 'log' needs choices"),
        ("tag(log, choice(a,b))", "a.b: the tag 'log' needs choices"),
        ("tag(log, categorical, choice(1,2))", "a.b: the tags 'log' and 'categorical'"),
        ("tag(categorical, interval(1,2))", "a.b: an interval is a number"),
        ("tag(int, choice(1,2))", "a.b: the tag 'int' belongs to intervals"),
        ("tag(int, interval(1.2,1.8))", "a.b: there is no whole number"),
        ("tag(logarithmic, interval(1,2))", "a.b: unknown tag 'logarithmic'.*categorical"),
        ("choice(1,", "a.b: cannot read"),
    ],
)
def test_bad_text_is_refused_by_key(text, words):
    with pytest.raises(ValueError, match=words):
        read("a.b", text, 5)


@pytest.mark.parametrize(
    ("decisions", "conditions", "baseline", "words"),
    [
        ({}, {}, {}, "no decisions"),
        ({"a": "choice(1,2)"}, {}, {}, "baseline.a is missing; write one of 1, 2"),
        ({"a": "choice(1,2)"}, {}, {"a": 3}, "baseline.a: 3 is not a choice; write one of 1, 2"),
        ({"a": "choice(1,2)"}, {}, {"a": True}, "baseline.a: True is not a choice"),
        ({"a": "choice(1,2)"}, {}, {"a": 1, "b": 1}, "baseline.b is not among the decisions"),
        ({"a": "interval(1,2)"}, {}, {"a": 2.5}, r"baseline.a=2.5 is not a number in \[1, 2\]"),
        ({"a": "interval(1,2)"}, {}, {"a": "x"}, "baseline.a='x' is not a number in"),
        ({"a": "choice(1,2)"}, {"z.*": {"a": [1]}}, {"a": 1}, "no decision is called 'z"),
        ({"a": "choice(1,2)"}, {"a": {"b": [1]}}, {"a": 1}, r"conditions.a.b: no decision .*'b'"),
        (
            {"a": "choice(1,2)", "b": "choice(1,2)"},
            {"b": {"a": [3]}},
            {"a": 1, "b": 1},
            r"conditions.b.a \(a\): 3 is not a choice",
        ),
        (
            {"a": "choice(1,2)", "b": "choice(1,2)"},
            {"b": {"a": []}},
            {"a": 1, "b": 1},
            "b: its condition on a has no values",
        ),
        (
            {"a": "choice(1,2)", "b": "choice(1,2)", "c": "choice(1,2)"},
            {"b": {"a": [1]}, "a": {"b": [1]}},
            {"a": 1, "b": 1, "c": 1},
            "conditions among a, b form a cycle",
        ),
        ({"a": "choice(1,2)"}, {"*": {"a": [1]}}, {"a": 1}, "among a form a cycle"),
    ],
)
def test_bad_spaces_are_refused_by_key(decisions, conditions, baseline, words):
    with pytest.raises(ValueError, match=words):
        parse_space(decisions, conditions, baseline, grid_size=3)


@pytest.mark.parametrize(
    ("decisions", "baseline", "words"),
    [
        ((), (), "no decisions"),
        ((Decision("a", ()),), (0,), "a has no choices"),
        ((Decision("a", (1, 1)),), (0,), "a has a choice twice"),
        ((Decision("a", (1,)), Decision("a", (1,))), (0, 0), "names twice"),
        ((Decision("a", (1,)),), (1,), "a: baseline index 1"),
        ((Decision("a", (1,)),), (0, 0), "2 entries for 1"),
        ((Decision("a", (1,), kind="word"),), (0,), "a: kind='word'"),
        ((Decision("a", (1,), parents=(("b", (1,)),)),), (0,), "a: its condition names b"),
    ],
)
def test_a_space_checks_itself(decisions, baseline, words):
    with pytest.raises(ValueError, match=words):
        Space(decisions, baseline)


def test_a_grid_needs_two_points():
    with pytest.raises(ValueError, match="grid_size=1"):
        parse_space({"a": "interval(1,2)"}, {}, {"a": 1}, grid_size=1)


def test_the_baseline_snaps_on_the_grids_own_scale():
    space = parse_space(
        {"a": "tag(log, interval(1, 100))", "b": "interval(1, 100)"},
        {},
        {"a": 30, "b": 30},
        grid_size=3,
    )
    assert space.decode(np.array(space.baseline)) == {"a": 10.0, "b": 50.5}


def test_configurations_are_refused_by_row_decision_and_value():
    space = small_space()
    good = np.array([space.baseline], np.int32)
    space.validate(good)
    bad = np.repeat(good, 3, axis=0)
    bad[2, 1] = 2
    with pytest.raises(ValueError, match=r"row 2: m.layer1.a has choice index 2, expected 0 to 1"):
        space.validate(bad)
    bad[2, 1] = -1
    with pytest.raises(ValueError, match=r"row 2: m.layer1.a has choice index -1"):
        space.validate(bad)
    stale = good.copy()
    stale[0, 4] = 0  # no convolution, so the kernel has no meaning
    with pytest.raises(ValueError, match=r"row 0: m.kernel is inactive"):
        space.validate(stale)
    with pytest.raises(ValueError, match=r"shape \(1, 5\)"):
        space.validate(good[:, :5])
    with pytest.raises(ValueError, match="float32"):
        space.validate(good.astype(np.float32))
    with pytest.raises(ValueError, match="m.depth is not in the space; known keys: m.layers"):
        space.encode({"m.depth": 1})
    with pytest.raises(ValueError, match="m.kernel: 2 is not a choice; write one of 1, 3"):
        space.encode({"m.kernel": 2})


def test_encode_drops_what_is_inactive():
    space = small_space()
    row = space.encode({"m.layers": 1, "m.layer2.a": "conv", "m.kernel": 1})
    assert space.decode(row) == {"m.layers": 1, "m.layer1.a": "dot", "t.rate": 1e-3}
    np.testing.assert_array_equal(row, space.encode({"m.layers": 1}))


def shipped(name: str) -> Space:
    text = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model = yaml.safe_load((CONFIGS.parent / "model" / "dhen.yaml").read_text())
    layers = {key: LayerConfig(**model.pop(key)) for key in list(model) if key.startswith("layer")}
    return build.space(SearchConfig(space=SpaceConfig(**text), model=DhenConfig(**model, **layers)))


@pytest.mark.parametrize(
    ("name", "depths"), [("dhen", (1, 2, 3, 4, 6, 8)), ("dhen_small", (1, 2, 3, 4))]
)
def test_shipped_spaces_count_as_a_closed_form(name, depths):
    """Inclusion and exclusion over the kinds of module that occur, times what they activate."""
    space = shipped(name)
    size = {n.split(".")[1]: c for n, c in zip(space.names, space.num_choices, strict=True)}
    members = {"rank": 1, "heads": 1, "kernel": 1, "mlp": 2, "rank and mlp": 1}  # mlp: dot, mask
    always = ("width", "num_tokens", "norm", "ensemble", "head_depth", "head_width")
    always += ("dense_rate", "table_rate", "dense_eps", "init_scale")
    total = 0
    for present in subsets(members):
        assignments = 0  # of modules to slots, in which exactly these kinds occur
        for part in subsets(present):
            modules = 2 + sum(members[kind] for kind in part)  # linear and cross activate nothing
            slots = modules * (modules + 1)  # slot b may also be none
            assignments += (-1) ** (len(present) - len(part)) * sum(slots**d for d in depths)
        activated = set(" and ".join(present).split(" and "))
        for knob, choices in (
            ("rank", size["rank"]),
            ("heads", size["heads"]),
            ("kernel", size["kernel"]),
            ("mlp", size["mlp_depth"] * size["mlp_width"]),
        ):
            assignments *= int(choices) if knob in activated else 1
        total += assignments
    assert space.cardinality() == total * math.prod(int(size[knob]) for knob in always)


def subsets(names) -> list[tuple[str, ...]]:
    return [c for r in range(len(names) + 1) for c in itertools.combinations(names, r)]


@pytest.mark.parametrize("name", ["dhen", "dhen_small"])
def test_shipped_spaces_activate_what_their_modules_use(name):
    space = shipped(name)
    baseline = space.decode(np.array(space.baseline))
    assert baseline["model.num_layers"] == 2 and "model.layer3.a" not in baseline
    assert {"model.rank", "model.mlp_width"} <= set(baseline)
    assert not {"model.heads", "model.kernel"} & set(baseline)
    plain = {"model.num_layers": 1, "model.layer1.a": "linear", "model.layer1.b": "none"}
    used = set(space.decode(space.encode(plain)))
    assert not {"model.rank", "model.heads", "model.kernel", "model.mlp_depth"} & used
    heads = space.decode(space.encode(plain | {"model.layer1.b": "attention"}))
    assert set(heads) - used == {"model.heads"}
