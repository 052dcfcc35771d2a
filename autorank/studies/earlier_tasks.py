"""Tasks with an earlier search on another one, which may warm the search: ``TASK after OTHER [CHANGE]``."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from autorank.base.records import require
from autorank.base.typing import Float, Int
from autorank.search.warm_start import warm_of
from autorank.searchers.base import Warm
from autorank.studies.search_tasks import SearchTask

# What is done to the earlier search so that it says nothing, or what is wrong: negated, it looked for the worst
# configurations; shuffled, its labels were dealt out anew among its trials.
CHANGES = ("negated", "shuffled")


def warmed(name: str, load: Callable[[str], SearchTask]) -> SearchTask:
    """The task of a name, with its earlier task if it names one.

    Raises:
        ValueError: two tasks of different decisions, or an unknown change.
    """
    target, _, rest = name.partition(" after ")
    task = load(target)
    if not rest:
        return task
    source, _, change = rest.partition(" ")
    if change:
        require(f"{target} after {source}", change, CHANGES)
    earlier = load(source)
    if earlier.space.decisions != task.space.decisions:
        raise ValueError(f"{name}: they have different spaces; name two tasks of one")
    return dataclasses.replace(task, earlier=earlier, change=change)


def told_sign(task: SearchTask) -> int:
    """By what the results of the earlier search are multiplied before they are told."""
    return -1 if task.change == "negated" else 1


def warm_from(
    task: SearchTask,
    configs: Int[np.ndarray, "n k"],
    labels: Float[np.ndarray, " n"],
    num_first: int,
    number: int,
) -> Warm:
    """What the trials of the earlier search leave for the new one, as a ledger would.

    Args:
        task: with an earlier one.
        configs: the earlier trials.
        labels: what was told of them.
        num_first: how many of them are tried first.
        number: of the repeat.
    """
    # Another log may have another baseline, whose choices stand where a decision is inactive.
    configs = np.asarray(task.space.canonical(jnp.asarray(configs)))
    if task.change == "shuffled":
        labels = np.random.default_rng(number).permutation(labels)
    trials = [
        [[int(v) for v in config], float(label) if np.isfinite(label) else None, 0.0]
        for config, label in zip(configs, labels, strict=True)
    ]
    warm = warm_of([{"trials": trials}], task.space, num_first=num_first, goal="best")
    assert warm is not None
    return warm
