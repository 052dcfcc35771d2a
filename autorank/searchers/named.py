"""Searchers by name, for spaces that are not ours: sweeps of Hydra jobs and Optuna studies."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autorank.base.plugins import load_plugins
from autorank.base.registry import Entry
from autorank.searchers.base import SEARCHERS, Context, MakeSearcher, Searcher
from autorank.space.space import Space

# Sweeps and studies do not take a search's default here: resumed ones must go on proposing what they did. And a job is
# not run again with another seed, so the Gaussian process takes a result for nearly exact and goes to the last step.
NEARLY_EXACT = {
    "noise_median": 1e-3,
    "noise_sd": 1.5,
    "noise_start": None,
    "noise_pace": 1.0,
    "conditional_scale": 1.0,
    "likely_failure_power": 0.0,
    "look_ahead": False,
    "repeats": False,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {"reinforce": {"rate": 0.05}, "autorank": NEARLY_EXACT}


def find_searcher(name: str) -> Entry[MakeSearcher]:
    """The searcher of a name, also one that a plug-in registers.

    Raises:
        ValueError: an unknown name; the message lists those there are.

    Examples:
        >>> find_searcher("evolution").settings().tournament
        5
        >>> find_searcher("bayes").name  # its former name
        'autorank'
    """
    load_plugins()
    return SEARCHERS[name]


def batch_settings(entry: Entry[MakeSearcher], batch_size: int) -> dict[str, Any]:
    """A searcher's settings that depend on the size of a batch; its model proposes one of it at least.

    Examples:
        >>> batch_settings(find_searcher("paper"), 1), batch_settings(find_searcher("random"), 4)
        ({'batch_size': 1, 'num_exploratory': 0}, {'batch_size': 4})
    """
    values = {"batch_size": batch_size, "num_exploratory": min(2, batch_size - 1)}
    return {key: value for key, value in values.items() if key in entry.fields}


@functools.lru_cache(maxsize=16)
def named_searcher(
    name: str,
    search_space: Space,
    *,
    capacity: int,
    batch_size: int,
    initial: int | None,
    alpha: float,
) -> Searcher:
    """A searcher with its default settings, apart from `DEFAULTS`.

    The same arguments give the same object, so that it is compiled once for several sweeps or studies of a process.

    Args:
        name: name of a registered searcher.
        search_space: the space to search.
        capacity: most trials that are told or pending at once.
        batch_size: proposals of an ask.
        initial: trials told before a model is trusted; None is the searcher's own number (20, Gaussian processes 10).
        alpha: weight of the cost in the reward of searchers that predict it.

    Raises:
        ValueError: an unknown name.
    """
    entry = find_searcher(name)
    values = {"alphas": (alpha,), "initial": initial}
    values = {k: v for k, v in values.items() if k in entry.fields and v is not None}
    values |= batch_settings(entry, batch_size)
    context = Context(capacity) if initial is None else Context(capacity, initial)
    values |= DEFAULTS.get(entry.name, {})
    return entry.make(search_space, replace(entry.settings(), **values), context)
