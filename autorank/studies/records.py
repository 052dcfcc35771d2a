"""Recorded results of many configurations: what a study of predictors learns from and is tested on."""

import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.base.records import require
from autorank.benchmarks.base import Benchmark, ask_table
from autorank.space.space import Space

# Finite spaces up to this size are taken whole.
WHOLE = 20_000


class Records(NamedTuple):
    """Finished configurations ``[m, k]`` of one task with their results."""

    name: str  # suite/task
    space: Space
    configs: np.ndarray  # int32 [m, k]
    # float64 [m], lower is better: 0 is the best record, 1 the median one, so that tasks can be averaged.
    quality: np.ndarray
    cost: np.ndarray  # float64 [m]: logarithm of the cost
    num_failed: int  # configurations that have no result and were left out
    own: np.ndarray | None = None  # bool [m]: the part that is tested; None: all may be
    noise: np.ndarray | None = (
        None  # float64 [m]: added to the quality that is learnt, not to that which is tested
    )

    def __len__(self) -> int:
        return len(self.configs)

    @property
    def metrics(self) -> np.ndarray:
        """Quality and cost, float32 ``[m, 2]``: what surrogates are fitted to."""
        learnt = self.quality if self.noise is None else self.quality + self.noise
        return np.stack([learnt, self.cost], axis=1).astype(np.float32)

    @property
    def num_own(self) -> int:
        """How many records may be tested."""
        return len(self) if self.own is None else int(self.own.sum())

    def described(self) -> str:
        """How many there are."""
        return f"{len(self)} records, {self.num_failed} failed ones left out"

    def fingerprint(self) -> str:
        """Changes with any configuration or result."""
        parts = (self.configs, self.quality, self.cost)
        parts += tuple(part for part in (self.own, self.noise) if part is not None)
        sums = [zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in parts]
        return "".join(f"{value:08x}" for value in sums)


def derived(name: str, load: Callable[[str], Records]) -> Records:
    """The records of a name; of a table, of two, or with a part of them alone to be tested.

    ``TABLE where DECISION=VALUE`` tests only configurations with this value; ``TABLE from OTHER`` tests those of the
    first table, and the other's are there to learn from too. ``TABLE noise S`` adds normal noise to what is learnt,
    with a standard deviation of ``S`` times that of the table's qualities.

    Args:
        name: as a study's file has it.
        load: gives the records of the name of a table.

    Raises:
        ValueError: an unknown decision or value, two tables of different spaces, or a scale that is no number above 0.
    """
    plain, _, scale = name.partition(" noise ")
    target, _, family = plain.partition(" where ")
    target, _, source = target.partition(" from ")
    records = load(target)
    if source:
        records = beside(records, load(source))
    records = part_of(records, family) if family else records
    return noisy(records, scale) if scale else records


def noisy(records: Records, scale: str) -> Records:
    """The same records with noise on what is learnt, the same at every call.

    Raises:
        ValueError: the scale is no number above 0.
    """
    if not re.fullmatch(r"\d*\.?\d+", scale) or not float(scale) > 0:
        raise ValueError(f"{records.name} noise {scale}: write a number above 0, as in 'noise 0.5'")
    name = f"{records.name} noise {scale}"
    drawn = np.random.default_rng(zlib.crc32(name.encode())).normal(size=len(records))
    return _changed(records, name=name, noise=float(scale) * records.quality.std() * drawn)


def part_of(records: Records, family: str) -> Records:
    """The same records, of which only those of a family are tested.

    Args:
        records: of one table.
        family: ``DECISION=VALUE``, as the table writes the value; the decision must be active.

    Raises:
        ValueError: an unknown decision or value.
    """
    name, _, value = family.partition("=")
    space = records.space
    require("where", name, space.names)
    place = space.names.index(name)
    choices = [str(choice) for choice in space.decisions[place].choices]
    require(f"where {name}", value, choices)
    active = np.asarray(space.active(records.configs))[:, place]
    own = active & (records.configs[:, place] == choices.index(value))
    return _changed(records, name=f"{records.name} where {family}", own=own)


def _changed(records: Records, **fields: Any) -> Records:
    """A copy with other fields; ``_replace`` takes the length for the number of fields."""
    return Records(**(records._asdict() | fields))


def beside(target: Records, source: Records) -> Records:
    """The records of two tables, of which the target's are tested. Qualities stay relative to their own table.

    Raises:
        ValueError: the tables have different spaces.
    """
    if target.space != source.space:
        raise ValueError(
            f"{target.name} from {source.name}: they have different spaces; name two tables of one"
        )

    return Records(
        f"{target.name} from {source.name}",
        target.space,
        np.concatenate([target.configs, source.configs]),
        np.concatenate([target.quality, source.quality]),
        np.concatenate([target.cost, source.cost]),
        target.num_failed + source.num_failed,
        np.arange(len(target) + len(source)) < len(target),
    )


def records_of(benchmark: Benchmark, sampled: int = 2000, clip: float = 1.0) -> Records:
    """All records of a table; of a surrogate or a function the results of random configurations.

    Args:
        benchmark: a recorded pool or a finite table is taken whole.
        sampled: draws from a space of more than `WHOLE` configurations; repeats are left out.
        clip: worse results than this quantile count as it.

    Raises:
        ValueError: fewer than two different results.

    Examples:
        >>> from autorank.benchmarks.mixed import mixed
        >>> records = records_of(mixed(0), sampled=50)
        >>> len(records), float(records.quality.min()), round(float(np.median(records.quality)), 9)
        (50, 0.0, 1.0)
    """
    space, pool = benchmark.space, benchmark.pool
    if pool is not None:
        configs = pool.configs
    elif benchmark.measured is not None:
        configs = benchmark.measured
    elif space.cardinality() <= WHOLE:
        configs = space.enumerate(WHOLE)
    else:
        drawn = np.asarray(space.sample(jax.random.key(0), sampled), np.int32)
        configs = np.unique(drawn, axis=0)
    found = ask_table(benchmark, configs)
    finished = np.isfinite(found).all(axis=1)
    kept, results = np.asarray(configs, np.int32)[finished], found[finished]
    if len(np.unique(results[:, 0])) < 2:
        raise ValueError(
            f"{benchmark.name} has {len(kept)} finished records, all with the same result; name another benchmark"
        )
    results[:, 0] = np.minimum(results[:, 0], np.quantile(results[:, 0], clip))
    best, median = results[:, 0].min(), float(np.median(results[:, 0]))
    unit = (median - best) or float(results[:, 0].max() - best)
    return Records(
        benchmark.name,
        space,
        kept,
        (results[:, 0] - best) / unit,
        results[:, 1],
        int((~finished).sum()),
    )
