"""What studies that run searches share: a compiled searcher, and what is random in one search."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.base.programs import compiler_options, lower
from autorank.base.typing import Key
from autorank.searchers.base import Searcher


class SearcherPrograms(NamedTuple):
    """A searcher of a space, compiled."""

    searcher: Searcher
    ask: Callable[..., Any]
    tell: Callable[..., Any]
    judge: Callable[..., Any]


def compiled(searcher: Searcher) -> SearcherPrograms:
    """The programs of a searcher; all but ``ask`` are compiled at their first call."""
    options, key = compiler_options(), jax.random.key(0)
    ask = lower(searcher.ask, key, jax.eval_shape(searcher.init, key))
    tell, judge = (
        jax.jit(function, compiler_options=options) for function in (searcher.tell, searcher.judge)
    )
    return SearcherPrograms(searcher, ask.compile(compiler_options=options), tell, judge)


def randomness(task: str, number: int, seed: int) -> tuple[Key, np.random.Generator]:
    """What is random in one search: the searcher's key, and a generator for what it is told.

    Args:
        task: name of what is searched.
        number: of the repeat.
        seed: of the study.
    """
    place = zlib.crc32(task.encode())
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), place), number)
    return key, np.random.default_rng([seed, place, number])
