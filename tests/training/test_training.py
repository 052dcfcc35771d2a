"""The one-pass trainer: bit-exact, a prefix is a prefix, failure is contained, and it learns what was planted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.base.programs import compiler_options
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Field, Schema
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.objectives import finished
from autorank.objectives.base import predict_rows
from autorank.objectives.table import table_objective
from autorank.training.compact import Setting
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.trainer import lifetime_ne, make_program, window_ne
from tests.making import make_objective

# Bit-for-bit claims are about programs as production compiles them.
pytestmark = pytest.mark.optimized

ROWS, BATCH, WINDOWS, IDS = 6400, 40, 8, 20
MODEL = DhenConfig(
    width=4,
    num_layers=1,
    num_tokens=3,
    layer1=LayerConfig("cross", "linear"),
    norm="none",
    head_width=8,
)
RATES = {"dense_rate": 3e-3, "table_rate": 0.1, "dense_eps": 1e-8, "table_eps": 1e-8}
HPARAMS = Hparams(
    *map(jnp.float32, RATES.values()), jnp.float32(0), jnp.float32(1), jnp.float32(0.01)
)
SCHEDULE = Schedule(jnp.int32(ROWS // BATCH), jnp.int32(8))


def planted(seed: int = 0) -> tuple[Data, np.ndarray]:
    """Clicks from a product of two ids' hidden signs; the true probabilities too."""
    rng = np.random.default_rng(seed)
    # Ids 0 and 1 of each field are reserved for missing and unknown values.
    sparse = rng.integers(2, IDS // 2, (ROWS, 2)).astype(np.int32)
    hidden = rng.choice([-1.0, 1.0], IDS)
    sparse[:, 1] += IDS // 2
    p = 1 / (1 + np.exp(-2.5 * hidden[sparse[:, 0]] * hidden[sparse[:, 1]]))
    labels = np.stack([rng.random(ROWS) < p, rng.random(ROWS) < 0.5], 1).astype(np.float32)
    dense = rng.normal(size=(ROWS, 1)).astype(np.float32)
    return Data(jnp.asarray(sparse), jnp.asarray(dense), jnp.asarray(labels)), p


DATA, TRUTH = planted()


def program_of(config: DhenConfig = MODEL, **changes):
    sizes = {"width": 4, "num_ids": IDS, "batch_size": BATCH, "num_windows": WINDOWS}
    return make_program(compact(config, 2, 1), head="ctr", **sizes | changes)


PROGRAM = program_of()
RUN = jax.jit(PROGRAM.run, donate_argnums=1)


def run(
    start: int, stop: int, state=None, hparams: Hparams = HPARAMS, data: Data = DATA, seed: int = 0
):
    state = PROGRAM.empty() if state is None else state
    steps = jnp.int32(start), jnp.int32(stop)
    return RUN(jax.random.key(seed), state, hparams, SCHEDULE, data, *steps)


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_same_key_same_bits_and_another_key_another_model():
    assert same(run(0, 160), run(0, 160))
    assert not same(run(0, 160).params, run(0, 160, seed=1).params)


def test_a_partial_run_is_a_prefix_and_continuing_it_is_the_full_run():
    half = run(0, 80)
    np.testing.assert_array_equal(half.curve.losses[:4], run(0, 160).curve.losses[:4])
    assert np.all(np.asarray(half.curve.counts)[4:] == 0)
    assert same(run(80, 160, run(0, 80)), run(0, 160))


def test_other_rates_are_the_same_program():
    run(0, 4)
    before = RUN._cache_size()
    run(0, 4, hparams=HPARAMS._replace(dense_rate=jnp.float32(1e-4), init_scale=jnp.float32(0.3)))
    run(0, 160)
    assert RUN._cache_size() == before


def test_windows_count_every_row_once_and_score_before_learning():
    state = run(0, 160)
    np.testing.assert_array_equal(np.asarray(state.curve.counts)[:, 0], ROWS / WINDOWS)
    assert np.asarray(state.curve.positives)[:, 0].sum() == float(DATA.labels[:, 0].sum())
    # The first batch is scored by the untrained model: nothing has been learned with rates of zero.
    frozen = HPARAMS._replace(dense_rate=jnp.float32(0), table_rate=jnp.float32(0))
    untrained = run(0, 1, hparams=frozen)
    first = BATCH
    p = PROGRAM.predict(
        untrained.params, untrained.table.rows, DATA.sparse[:first], DATA.dense[:first]
    )[:, 0]
    y = DATA.labels[:first, 0]
    loss = -jnp.sum(y * jnp.log(p) + (1 - y) * jnp.log1p(-p))
    np.testing.assert_allclose(run(0, 1).curve.losses[0, 0], loss, rtol=1e-5)


def test_it_learns_the_planted_interaction_down_to_near_the_best_possible():
    labels = np.asarray(DATA.labels[:, 0], np.float64)
    tail = slice(3 * ROWS // 4, None)
    q = labels[tail].mean()
    entropy = -(q * np.log(q) + (1 - q) * np.log(1 - q))
    best = -np.mean(np.where(labels > 0, np.log(TRUTH), np.log1p(-TRUTH))[tail]) / entropy
    curve = window_ne(run(0, 160).curve)[:, 0]
    assert curve[0] > 0.95
    assert curve[-2:].mean() < best + 0.1, (curve, best)


def test_lifetime_ne_is_written_out():
    state = run(0, 160)
    loss, positives, rows = (np.asarray(c, np.float64).sum() for c in state.curve)
    q = positives / rows
    entropy = -(q * np.log(q) + (1 - q) * np.log(1 - q))
    np.testing.assert_allclose(lifetime_ne(state.curve), [loss / rows / entropy], rtol=1e-12)


def test_a_non_finite_loss_ends_the_run_with_its_step():
    state = run(0, 160, hparams=HPARAMS._replace(table_rate=jnp.float32(1e38)))
    failed = int(state.failed_step)
    assert 0 <= failed < 160 and int(state.step) == failed + 1
    broken = DATA._replace(dense=DATA.dense.at[5 * BATCH + 3].set(jnp.nan))
    assert int(run(0, 160, data=broken).failed_step) == 5


def test_warm_up_is_linear():
    one = run(0, 1)
    half = run(0, 1, hparams=HPARAMS._replace(table_rate=jnp.float32(0.05)))
    empty = run(0, 1, hparams=HPARAMS._replace(table_rate=jnp.float32(0)))
    moved = np.abs(np.asarray(one.table.rows - empty.table.rows))
    np.testing.assert_allclose(
        moved, 2 * np.abs(np.asarray(half.table.rows - empty.table.rows)), rtol=1e-3, atol=1e-7
    )
    # First of eight warm-up steps: each touched row moves by rate / 8 in root mean square.
    touched = moved.max(axis=1) > 0
    np.testing.assert_allclose(np.sqrt((moved[touched] ** 2).mean(axis=1)), 0.1 / 8, rtol=1e-3)


# --- the objective ---------------------------------------------------------------------------------


def small_dataset() -> Dataset:
    fields = (Field("user", IDS // 2, 0), Field("item", IDS // 2, IDS // 2))
    schema = Schema(
        "planted", fields, ("age",), ("click", "conversion"), ROWS, 4800, ("c", "v"), "", "", {}, {}
    )
    return Dataset(schema, *(np.asarray(a) for a in DATA[:2]), np.asarray(DATA.labels, np.int8))


def objective(head: str = "esmm", settings=None, workers: int = 2):
    models = settings or [
        Setting(DhenConfig(**(vars(MODEL) | {"head": head})), HPARAMS),
        Setting(
            DhenConfig(**(vars(MODEL) | {"head": head})),
            HPARAMS._replace(table_rate=jnp.float32(1e38)),
        ),
        Setting(DhenConfig(**(vars(MODEL) | {"head": head, "num_layers": 2})), HPARAMS),
    ]
    return make_objective(
        small_dataset(),
        lambda c: models[int(c[0])],
        head=head,
        batch_size=BATCH,
        num_windows=WINDOWS,
        warmup_share=0.1,
        workers=workers,
        qps_seconds=0.02,
    )


@pytest.fixture(scope="module")
def trained():
    made = objective()
    configs = np.array([[0], [1], [2], [0]], np.int32)
    return made, dict(made.evaluate(configs, [0, 0, 0, 1], 0.5))


def test_one_failure_harms_no_other_and_names_its_step(trained):
    _, outcomes = trained
    assert "non-finite loss at step" in outcomes[1].failed
    assert [outcomes[i].failed for i in (0, 2, 3)] == ["", "", ""]
    for i in (0, 2, 3):
        assert np.isfinite(outcomes[i].curve[:4]).all() and np.isnan(outcomes[i].curve[4:]).all()


def test_one_compile_for_each_structure(trained):
    made, outcomes = trained
    # An empty second layer without a norm is no other structure.
    assert len({o.details["structure"] for o in outcomes.values() if o.details}) == 1
    assert made.stats().num_compiles == 1 and made.stats().num_hits == 3


def test_results_do_not_depend_on_workers_or_company(trained):
    _, outcomes = trained
    alone = dict(objective(workers=1).evaluate(np.array([[0]], np.int32), [1], 0.5))[0]
    np.testing.assert_array_equal(alone.curve, outcomes[3].curve)


def test_promotion_equals_training_at_once(trained):
    made, _ = trained
    promoted = dict(made.evaluate(np.array([[0]], np.int32), [0], 1.0))[0]
    at_once = dict(objective().evaluate(np.array([[0]], np.int32), [0], 1.0))[0]
    np.testing.assert_array_equal(promoted.curve, at_once.curve)
    assert promoted.num_rows == 4800


def test_held_out_rows_are_scored_by_the_frozen_model(trained):
    made, _ = trained
    first, again = (made.test(np.array([0], np.int32), 0) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (1600, 3) and ((0 < first) & (first < 1)).all()
    model = made.trained(np.array([0], np.int32), 0)
    held_out = small_dataset().test()
    chunked = predict_rows(model, held_out.sparse, held_out.dense, chunk=300)
    np.testing.assert_allclose(chunked, first, rtol=1e-5)


@pytest.mark.parametrize("progressive", [False, True])
def test_programs_compiled_ahead_are_those_that_score(progressive):
    data = small_dataset()
    made, other = (
        make_objective(
            data,
            lambda c: Setting(MODEL, HPARAMS),
            head="ctr",
            batch_size=BATCH,
            num_windows=WINDOWS,
            warmup_share=0.05,
            held_out="progressive" if progressive else "frozen",
            qps_seconds=0.02,
        )
        for _ in range(2)
    )
    assert made.prepare is not None and made.test and made.qps and other.test
    # Two configurations of one structure share a program.
    made.prepare([[0], [1]])
    assert made.qps(np.array([0], np.int32)) > 0  # waits for the threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finished, "lower", pytest.fail)
        scores = [made.test(np.array([c], np.int32), 0) for c in (0, 1)]
    np.testing.assert_array_equal(scores[0], other.test(np.array([0], np.int32), 0))
    np.testing.assert_array_equal(scores[0], scores[1])


def test_progressive_held_out_rows_are_scored_before_they_are_learned_from():
    """The same numbers as one run over the whole log gives, on a held-out part that ends inside a batch."""
    rows = 4800 + 15 * BATCH + 7
    parts = (np.asarray(part)[:rows] for part in DATA)
    data = Dataset(small_dataset().schema._replace(num_rows=rows), *parts)
    made = make_objective(
        data,
        lambda c: Setting(MODEL, HPARAMS),
        head="ctr",
        batch_size=BATCH,
        num_windows=WINDOWS,
        warmup_share=8 / 120,
        held_out="progressive",
    )
    found = made.test(np.array([0], np.int32), 0)
    assert found.shape == (15 * BATCH + 7, 1)
    schedule = Schedule(jnp.int32(120), jnp.int32(8))
    state = RUN(
        jax.random.key(0), PROGRAM.empty(), HPARAMS, schedule, DATA, jnp.int32(0), jnp.int32(130)
    )
    next_batch = slice(130 * BATCH, 131 * BATCH)
    expected = PROGRAM.predict(
        state.params, state.table.rows, DATA.sparse[next_batch], DATA.dense[next_batch]
    )
    np.testing.assert_allclose(found[10 * BATCH : 11 * BATCH], expected, rtol=2e-4)


UNKNOWN_IDS = (1, IDS // 2 + 1)


def test_unknown_ids_stay_zero_and_change_nothing_else():
    """A value seen once must not stand for every value that training never saw."""
    program = program_of(untrained=UNKNOWN_IDS)
    steps = jnp.int32(0), jnp.int32(40)

    def after(data: Data):
        return jax.jit(program.run)(
            jax.random.key(0), program.empty(), HPARAMS, SCHEDULE, data, *steps
        )

    # Without an unknown value in the log, all other rows and the model are those of ordinary training, bit for bit.
    free, kept = run(0, 40), after(DATA)
    others = np.setdiff1d(np.arange(IDS), UNKNOWN_IDS)
    assert same(kept.params, free.params) and same(kept.curve, free.curve)
    np.testing.assert_array_equal(kept.table.rows[others], free.table.rows[others])
    # With many, their rows are what they were.
    often = DATA.sparse.at[::3, 0].set(UNKNOWN_IDS[0]).at[::4, 1].set(UNKNOWN_IDS[1])
    state = after(DATA._replace(sparse=often))
    assert int(state.failed_step) < 0 and not same(state.params, kept.params)
    np.testing.assert_array_equal(state.table.rows[np.array(UNKNOWN_IDS)], 0.0)
    assert np.abs(np.asarray(state.table.rows)[others]).min() > 0
    # They stay so while the held-out rows are learned from: an unknown value is scored alike before and after.
    scored = jax.jit(program.follow)(state, HPARAMS, SCHEDULE, DATA._replace(sparse=often))
    assert np.isfinite(np.asarray(scored)).all()


@pytest.mark.optimized(False)
def test_one_rare_value_does_not_decide_the_held_out_score():
    """Clicks do not depend on the ids; the only unknown value of the training rows was never clicked."""
    rng = np.random.default_rng(0)
    rows = 4800 + 800
    sparse = rng.integers(2, IDS // 2, (rows, 2)).astype(np.int32) + np.array(
        [0, IDS // 2], np.int32
    )
    labels = (rng.random((rows, 2)) < 0.5).astype(np.int8)
    sparse[4700, 0], labels[4700] = UNKNOWN_IDS[0], 0
    sparse[4800:, 0] = UNKNOWN_IDS[0]
    schema = small_dataset().schema._replace(num_rows=rows)
    data = Dataset(schema, sparse, np.zeros((rows, 1), np.float32), labels)
    made = make_objective(
        data,
        lambda c: Setting(MODEL, HPARAMS._replace(table_rate=jnp.float32(1.0))),
        head="ctr",
        batch_size=BATCH,
        num_windows=WINDOWS,
        warmup_share=0.05,
    )
    trained = made.trained(np.array([0], np.int32), 0)
    np.testing.assert_array_equal(np.asarray(trained.rows)[np.array(UNKNOWN_IDS)], 0.0)
    # The exported model and the test score the held-out rows alike, and as a new value deserves.
    scored = predict_rows(trained, data.test().sparse, data.test().dense)
    np.testing.assert_array_equal(scored, made.test(np.array([0], np.int32), 0))
    assert abs(scored.mean() - 0.5) < 0.05


def test_cost_and_qps(trained):
    made, outcomes = trained
    costs = made.cost(np.array([[0], [2]], np.int32))
    assert costs[0] == costs[1] == outcomes[0].flops > 0
    assert made.qps(np.array([0], np.int32)) > 0


def test_too_few_rows_for_the_windows_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=40 gives 120 steps.*num_windows=200"):
        make_objective(
            small_dataset(),
            lambda c: None,
            head="ctr",
            batch_size=BATCH,
            num_windows=200,
            warmup_share=0.1,
        )


def test_table_objective_answers_from_its_table():
    curves = np.linspace(1, 0.9, 10)[None, :, None] * np.ones((2, 1, 1))
    curves[1, 6:] = np.nan
    configs = np.array([[0, 1], [2, 0]], np.int32)
    table = table_objective(
        "known", configs, curves, np.array([1.0, 2.0]), metrics=("ctr",), num_rows=1000
    )
    done = dict(table.evaluate(configs[::-1], [0, 0], 0.8))
    assert done[0].failed == "recorded as failed" and done[1].failed == ""
    assert np.isfinite(done[1].curve).sum() == 8 and done[1].num_rows == 800
    np.testing.assert_array_equal(table.cost(configs[::-1]), [2.0, 1.0])
    with pytest.raises(KeyError, match=r"\[7, 7\] is not in the table"):
        list(table.evaluate(np.array([[7, 7]]), [0], 1.0))


def test_training_holds_one_table_in_memory():
    """Donated, initialised and updated in place: temporaries stay far below the table."""
    num_ids = 1_000_000  # compiled, not run
    program = program_of(num_ids=num_ids)
    state = jax.eval_shape(program.empty)
    steps = jnp.int32(0), jnp.int32(ROWS // BATCH)
    compiled = (
        jax.jit(program.run, donate_argnums=1)
        .lower(jax.random.key(0), state, HPARAMS, SCHEDULE, DATA, *steps)
        .compile()
    )
    memory = compiled.memory_analysis()
    size = 4 * num_ids * (4 + 2)
    assert memory is not None and memory.temp_size_in_bytes < 0.2 * size
    assert memory.alias_size_in_bytes >= size, "the state must be donated"
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 0.01 * size


def test_a_known_bound_on_distinct_ids_changes_no_bit_and_a_wrong_one_ends_the_run():
    def with_bound(bound: int):
        program = program_of(max_distinct=bound)
        steps = jnp.int32(0), jnp.int32(20)
        key = jax.random.key(0)
        return jax.jit(program.run)(key, program.empty(), HPARAMS, SCHEDULE, DATA, *steps)

    distinct = [len(np.unique(DATA.sparse[i * BATCH : (i + 1) * BATCH])) for i in range(20)]
    most = IDS - 4  # all but the reserved ids
    assert max(distinct) == most
    free, bounded = run(0, 20), with_bound(most)
    np.testing.assert_array_equal(np.asarray(bounded.table.rows), np.asarray(free.table.rows))
    wrong = with_bound(most - 1)
    assert int(wrong.failed_step) == distinct.index(most)


@pytest.mark.optimized(False)
def test_bfloat16_products_train_every_module():
    """All modules in one model with a search's compiler options: XLA:CPU does not run every bfloat16 product."""
    pairs = (
        ("dot", "attention"),
        ("cross", "cross_low"),
        ("convolution", "fmb"),
        ("mask", "wukong"),
    )
    layers_ = {f"layer{i}": LayerConfig(*pair) for i, pair in enumerate(pairs, 1)}
    config = DhenConfig(
        width=4,
        num_layers=4,
        num_tokens=3,
        rank=2,
        heads=2,
        kernel=3,
        mlp_width=8,
        head_width=8,
        **layers_,
    )
    first, whole = [], []
    for precision in ("float32", "bfloat16"):
        program = program_of(config, precision=precision)
        run_ = jax.jit(program.run, donate_argnums=1, compiler_options=compiler_options())
        for stop, found in ((1, first), (ROWS // BATCH, whole)):
            steps = jnp.int32(0), jnp.int32(stop)
            state = run_(jax.random.key(0), program.empty(), HPARAMS, SCHEDULE, DATA, *steps)
            assert int(state.failed_step) < 0
            found.append(float(lifetime_ne(state.curve)[0]))
    # The same model, its weights rounded to 8 bits; training then goes its own way, and learns as well.
    assert first[0] != first[1], "no product was rounded"
    assert abs(first[1] / first[0] - 1) < 2**-8, first
    assert max(whole) < 0.7, whole
