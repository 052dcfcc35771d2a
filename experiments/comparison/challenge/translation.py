"""Bayesmark's configuration spaces as spaces of ours, and configurations there and back.

A hyperparameter is ``real`` or ``int`` over a range on a scale (``linear``, ``log``, ``logit``, ``bilog``), ``bool``,
or ``cat`` over values (Bayesmark's README; `bayesmark.space`). Our decisions have the first two scales. On the others
the decision is the warped number, so that every searcher, a peer too, sees the scale that the problem states:

    logit(x) = log(x / (1 - x))        bilog(x) = sign(x) log(1 + |x|)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from autorank.benchmarks.base import Interval, middle, number
from autorank.space.space import Decision, Space

Api = Mapping[str, Mapping[str, Any]]


def bilog(x: float) -> float:
    """``sign(x) log(1 + |x|)``."""
    return math.copysign(math.log1p(abs(x)), x)


def biexp(y: float) -> float:
    """The inverse of `bilog`."""
    return math.copysign(math.expm1(abs(y)), y)


def logit(x: float) -> float:
    """``log(x / (1 - x))``."""
    return math.log(x / (1.0 - x))


def logistic(y: float) -> float:
    """The inverse of `logit`."""
    return 1.0 / (1.0 + math.exp(-y))


class Warp(NamedTuple):
    """A scale that decisions do not have, and its inverse."""

    forward: Callable[[float], float]
    back: Callable[[float], float]


WARPS = {"logit": Warp(logit, logistic), "bilog": Warp(bilog, biexp)}
SCALES = ("linear", "log", *WARPS)


class Translation(NamedTuple):
    """A problem's space as ours."""

    space: Space
    intervals: Mapping[str, Interval]
    api: Api

    def native(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the problem takes, from a configuration of the space; inside the problem's ranges."""
        return {name: self._native(name, values[name]) for name in self.api}

    def values(self, native: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `native`; numbers need not be on the grid of the space."""
        return {name: self._warp(name, native[name]) for name in self.api}

    def _warp(self, name: str, raw: Any) -> Any:
        warp = WARPS.get(self.api[name].get("space", ""))
        return raw if warp is None else warp.forward(raw)

    def _native(self, name: str, value: Any) -> Any:
        told = self.api[name]
        if "range" not in told:
            return value
        low, high = told["range"]
        warp = WARPS.get(told["space"])
        raw = min(max(value if warp is None else warp.back(value), low), high)
        return int(round(raw)) if told["type"] == "int" else float(raw)


def translated(api: Api, grid_size: int = 64) -> Translation:
    """A configuration space as Bayesmark states it.

    Args:
        api: by hyperparameter its ``type``, ``space`` and ``range``, or ``values``.
        grid_size: points of a continuous decision for our searchers.

    Raises:
        ValueError: a type or scale that is none of Bayesmark's; the message names the hyperparameter.

    Examples:
        >>> found = translated({"rate": {"type": "real", "space": "logit", "range": (0.1, 0.9)}}, grid_size=3)
        >>> found.native({"rate": 0.0})
        {'rate': 0.5}
    """
    decisions, intervals = [], {}
    for name in sorted(api):
        decision, interval = _decision(name, api[name], grid_size)
        decisions.append(decision)
        if interval is not None:
            intervals[name] = interval
    return Translation(Space(tuple(decisions), middle(decisions)), intervals, api)


def _decision(
    name: str, told: Mapping[str, Any], grid_size: int
) -> tuple[Decision, Interval | None]:
    kind, scale = told.get("type"), told.get("space")
    if kind == "bool":
        return Decision(name, (False, True)), None
    if kind == "cat":
        return Decision(name, tuple(sorted(told["values"]))), None
    if kind not in ("real", "int"):
        raise ValueError(f"{name}: type {kind!r} is none of real, int, bool, cat")
    if scale not in SCALES:
        raise ValueError(f"{name}: space {scale!r} is none of {', '.join(SCALES)}")
    if "values" in told:
        if scale in WARPS:
            raise ValueError(
                f"{name}: values on the scale {scale} are not translated; give a range"
            )
        return Decision(name, tuple(sorted(told["values"])), "number", scale == "log"), None
    low, high = told["range"]
    if scale in WARPS:
        forward = WARPS[scale].forward
        return number(name, forward(low), forward(high), grid_size)
    return number(name, low, high, grid_size, log=scale == "log", whole=kind == "int")
