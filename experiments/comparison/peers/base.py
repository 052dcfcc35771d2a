"""The interface of a peer, and what its adapters share.

Adapters run in a process of the peer's own environment, which may have neither JAX nor a NumPy that `autorank` could
use: nothing here imports either. A benchmark reaches them as a `Task`, which is plain JSON on the way.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

# Peers that stop runs early count a run in so many units and, by their defaults of eta=3, look at 1, 3 and 9 of them.
UNITS = 9


class Decision(NamedTuple):
    """A decision of the space, like `autorank.space.decision.Decision` but plain data."""

    name: str
    choices: tuple[Any, ...]
    kind: str  # "categorical", or "number": ordered
    log: bool
    parents: tuple[tuple[str, tuple[Any, ...]], ...]  # active if any parent has one of its values


class Interval(NamedTuple):
    """The native range of a decision whose choices are only a grid of it."""

    low: float | int
    high: float | int
    whole: bool  # integers


class Task(NamedTuple):
    """What a peer may know of a benchmark."""

    decisions: tuple[Decision, ...]
    order: tuple[int, ...]  # of the decisions, parents before their children
    intervals: Mapping[
        str, Interval
    ]  # continuous and integer decisions; a peer may propose any value inside
    baseline: Mapping[str, Any]  # every decision's value

    def parents_first(self) -> Iterator[Decision]:
        """The decisions, so that a decision's parents come before it."""
        return (self.decisions[i] for i in self.order)

    def named(self, name: str) -> Decision:
        """The decision of that name."""
        return next(d for d in self.decisions if d.name == name)

    def searched(self) -> list[Decision]:
        """Decisions with more than one choice."""
        return [d for d in self.decisions if len(d.choices) > 1]

    def fixed(self) -> dict[str, Any]:
        """Decisions with one choice: nothing to search."""
        return {d.name: d.choices[0] for d in self.decisions if len(d.choices) == 1}


class Told(NamedTuple):
    """A finished trial, as it is told."""

    values: dict[str, Any]  # active decisions only
    loss: float  # NaN = failed
    cost: float | None = None  # told to peers of two objectives alone
    units: int | None = (
        None  # of `UNITS`, how much of a run the loss is of; told to peers that stop runs early
    )


class Peer(Protocol):
    """A searcher with its documented defaults; made by ``factory(task, seed, trials, batch)``.

    ``asks_again`` says how a run that was stopped goes on. True: the peer holds a stream of random numbers that only
    asking moves, so each batch is asked for again before it is told. False: what was told is all of its state. It
    may change as trials are told.
    """

    @property
    def asks_again(self) -> bool:
        """Whether the next batch of a resumed run is asked for before it is told."""
        ...

    def ask(self, n: int) -> list[dict[str, Any]]:
        """``n`` configurations, native values, active decisions only."""
        ...

    def tell(self, trials: Sequence[Told]) -> None:
        """Results, in the order in which they were asked for; or, at a resume, from an earlier process."""
        ...


class StoppingPeer(Protocol):
    """A searcher that decides how far runs go, one at a time, with its documented defaults; made as a `Peer`."""

    def ask_run(self) -> tuple[dict[str, Any], int]:
        """A configuration, new or one that was asked for before, and how many of the `UNITS` it is to reach."""
        ...

    def tell(self, trials: Sequence[Told]) -> None:
        """The result of what was asked for last."""
        ...


def described(benchmark: Any) -> Task:
    """A `autorank.benchmarks.base.Benchmark` as a task."""
    intervals = {k: Interval(*v) for k, v in benchmark.intervals.items()}
    return of_space(benchmark.space)._replace(intervals=intervals)


def of_space(space: Any) -> Task:
    """A `autorank.space.space.Space` as a task: a peer may propose its choices alone."""
    decisions = tuple(Decision(*d) for d in space.decisions)
    pairs = zip(space.decisions, space.baseline, strict=True)
    baseline = {d.name: d.choices[b] for d, b in pairs}
    return Task(decisions, tuple(space.tables.order), {}, baseline)


def task_from(plain: Mapping[str, Any]) -> Task:
    """A task from what ``Task._asdict()`` became in JSON."""
    decisions = tuple(
        Decision(name, tuple(choices), kind, log, tuple((p, tuple(v)) for p, v in parents))
        for name, choices, kind, log, parents in plain["decisions"]
    )
    intervals = {name: Interval(*ends) for name, ends in plain["intervals"].items()}
    return Task(decisions, tuple(plain["order"]), intervals, plain["baseline"])


def find(choices: Sequence[Any], value: Any) -> int | None:
    """Position of a value among choices, ``None`` if it is not there; ``True`` is not ``1``."""
    alike = (isinstance(c, bool) == isinstance(value, bool) and c == value for c in choices)
    return next((i for i, same in enumerate(alike) if same), None)


def index(choices: Sequence[Any], value: Any) -> int:
    """Position of a value that is there.

    Raises:
        ValueError: it is not.
    """
    at = find(choices, value)
    if at is None:
        raise ValueError(f"{value!r} is not among {list(choices)}")
    return at


def is_active(decision: Decision, values: Mapping[str, Any]) -> bool:
    """Whether the decision has a meaning, given the values of active decisions before it."""
    pairs = decision.parents
    return not pairs or any(p in values and find(v, values[p]) is not None for p, v in pairs)


def active_only(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """Drops decisions without a meaning."""
    kept: dict[str, Any] = {}
    for d in task.parents_first():
        if is_active(d, kept):
            kept[d.name] = values[d.name]
    return kept


def filled(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the baseline's value where a decision is inactive, for peers without conditions."""
    return {d.name: values.get(d.name, task.baseline[d.name]) for d in task.decisions}


def inside(native: Interval, raw: Any) -> float | int:
    """A peer's number as the decision takes it: rounding may have put it beyond an end."""
    number = min(max(raw, native.low), native.high)
    return int(round(number)) if native.whole else float(number)


def from_indices(task: Task, found: Mapping[str, Any]) -> dict[str, Any]:
    """A proposal, from native values and the indices of choices (numbers or their text)."""
    values = task.fixed()
    for d in task.searched():
        native, raw = task.intervals.get(d.name), found[d.name]
        values[d.name] = d.choices[int(raw)] if native is None else inside(native, raw)
    return active_only(task, values)


def to_indices(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_indices`, with inactive decisions as the baseline has them."""
    whole = filled(task, values)
    return {
        d.name: whole[d.name] if d.name in task.intervals else index(d.choices, whole[d.name])
        for d in task.searched()
    }


def checked(task: Task, values: Any) -> dict[str, Any]:
    """A proposal, with choices as the task writes them.

    Raises:
        ValueError: decisions missing or inactive, or a value outside: an adapter's fault, named.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a proposal is a mapping of decisions, not {values!r}"[:200])
    found: dict[str, Any] = {}
    for d in task.parents_first():
        if not is_active(d, found):
            continue
        if d.name not in values:
            raise ValueError(f"the proposal lacks {d.name}, which is active: {values}"[:500])
        value, native = values[d.name], task.intervals.get(d.name)
        at = find(d.choices, value)
        if native is None and at is None:
            raise ValueError(f"{d.name}: {value!r} is not among {list(d.choices)}"[:500])
        if native is not None and not (
            isinstance(value, int if native.whole else (int, float))
            and not isinstance(value, bool)
            and native.low <= value <= native.high
        ):
            raise ValueError(f"{d.name}: {value!r} is not inside {tuple(native)}")
        found[d.name] = value if native is not None else d.choices[at or 0]
    more = set(values) - set(found)
    if more:
        raise ValueError(f"the proposal has {', '.join(sorted(more))}, which are not active")
    return found


def step_seed(seed: int, told: int) -> int:
    """31 bits, a function of seed and number of trials told: a resumed run goes on with the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{told}".encode()).digest()[:4], "big") >> 1


class WorstSoFar:
    """The value that stands for a failure where a peer has no failed trials: the worst finished one so far."""

    def __init__(self) -> None:
        self._worst: float | None = None

    def __call__(self, losses: Sequence[float]) -> list[float]:
        """Losses without NaN; 1 where nothing has finished."""
        for v in losses:
            if math.isfinite(v):
                self._worst = v if self._worst is None else max(v, self._worst)
        stand_in = 1.0 if self._worst is None else self._worst
        return [v if math.isfinite(v) else stand_in for v in losses]
