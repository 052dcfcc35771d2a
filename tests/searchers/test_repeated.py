"""Repeats that all agree show that results are exact; nothing is proposed again then, and what was told is believed."""

from collections import defaultdict

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from autorank.searchers.autorank import AutorankConfig
from autorank.searchers.base import SEARCHERS, Context, History, as_told
from autorank.searchers.repeated import LEAST, are_exact
from autorank.space.space import Decision, Space

ROOM = 8  # one shape, one program
TRIALS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.5, float("nan")])), max_size=ROOM
)


@given(TRIALS)
def test_results_are_exact_if_enough_repeats_agree_and_none_differs(trials):
    configs, metrics = np.zeros((ROOM, 1), np.int32), np.zeros((ROOM, 2), np.float32)
    seen = defaultdict(list)
    for i, (config, quality) in enumerate(trials):
        configs[i], metrics[i] = config, quality
        if quality == quality:
            seen[config].append(quality)
    history = History(jnp.asarray(configs), jnp.asarray(metrics), jnp.int32(len(trials)))
    repeats = sum(len(values) - 1 for values in seen.values())
    wanted = repeats >= LEAST and all(len(set(values)) == 1 for values in seen.values())
    assert bool(jax.jit(are_exact)(history)) == wanted


def test_an_exact_result_is_not_tried_again_and_is_believed():
    """As in `test_noise`: much noise is expected, so that the doubtful best is worth a second trial, and a third."""
    space = Space((Decision("kind", tuple(range(8))),), (0,))
    settings = AutorankConfig(
        batch_size=1, initial=4, alphas=(0.0,), noise_median=1.0, noise_sd=0.1, noise_start=1.0
    )
    made = SEARCHERS["autorank"].make(space, settings, Context(capacity=16, repeats=True))
    ask, judge = jax.jit(made.ask), jax.jit(made.judge)
    kinds = np.array([*range(7), 0, 0])

    def after(*best: float):
        seen = np.array([0.0, 0.1, 2.0, 2.1, 1.9, 2.2, 2.0, *best])
        metrics = np.stack([seen, 0 * seen], axis=1)
        return made.tell(made.init(jax.random.key(0)), kinds[: len(seen), None], metrics)

    for best in ((), (0.0,), (0.0, 0.2)):
        state = after(*best)
        assert bool(ask(jax.random.key(1), state).info["repeat"][0])
        assert not np.array_equal(judge(state), as_told(state), equal_nan=True)
    state = after(0.0, 0.0)
    assert int(ask(jax.random.key(1), state).configs[0, 0]) == 7
    np.testing.assert_array_equal(judge(state), as_told(state))
