"""A synthetic function of mixed decisions, shaped like the tuning of a ranking model; its minimum is 0 by construction.

It has twelve decisions: six categorical, three ordered, three continuous of which two logarithmic. Main effects, pairs
and triples are tables that are zero at the planted optimum and positive elsewhere. The optima of learning rate, weight
decay and dropout move with other decisions, and there is a cliff at which the learning rate diverges. With ``crash``,
models too big for an imagined memory fail: 17 % of uniform samples, right beside the optimum.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from autorank.benchmarks.base import Benchmark, Interval, Values, middle, number
from autorank.ledger.front import pareto_front
from autorank.space.space import Decision, Space

CATEGORICAL = {
    "optimizer": ("adam", "adagrad", "lion", "sgd"),
    "interaction": ("dot", "cross", "attention", "linear", "convolution", "fmb", "mask", "none"),
    "norm": ("pre", "post", "none"),
    "activation": ("relu", "gelu", "silu", "tanh", "prelu"),
    "ensemble": ("concat", "sum", "weighted"),
    "schedule": ("constant", "cosine", "linear", "step", "warmup", "exponential"),
}
ORDERED = {
    "layers": (1, 2, 3, 4, 5, 6, 7, 8),
    "width": (16, 32, 64, 128, 256, 512, 1024),
    "embedding": (8, 16, 32, 64, 96, 128),
}
PAIRS = (
    ("interaction", "optimizer"),
    ("interaction", "layers"),
    ("norm", "activation"),
    ("optimizer", "schedule"),
    ("width", "embedding"),
    ("ensemble", "interaction"),
)
TRIPLES = (("interaction", "norm", "ensemble"), ("optimizer", "activation", "layers"))
# Configurations with layers x width x embedding above this crash: 17.3 % of uniform samples.
MEMORY = 120_000
# Indices into `ORDERED` at the optimum: 4 layers of width 256 with embeddings of 96 (98,304) fit; one step up does not.
BEST = {"layers": 3, "width": 4, "embedding": 4}


def mixed(seed: int = 0, *, crash: bool = False, grid_size: int = 64) -> Benchmark:
    """The function of ``seed``; peers may propose any learning rate, weight decay and dropout.

    Examples:
        >>> mixed(0).query([planted_optimum(0)])[0, 0].round(12).item()
        0.0
    """
    planted = _planted(seed)
    floats = [
        number("learning_rate", 1e-5, 1e-1, grid_size, log=True),
        number("weight_decay", 1e-8, 1e-2, grid_size, log=True),
        number("dropout", 0.0, 0.6, grid_size),
    ]
    decisions = (
        *(Decision(n, c) for n, c in CATEGORICAL.items()),
        *(Decision(n, c, "number", n != "layers") for n, c in ORDERED.items()),
        *(d for d, _ in floats),
    )
    intervals = {d.name: i for d, i in floats} | {"layers": Interval(1, 8, True)}

    def query(rows: Sequence[Values]) -> np.ndarray:
        sizes = [r["layers"] * r["width"] * r["embedding"] for r in rows]
        losses = [
            float("nan") if crash and size > MEMORY else planted.loss(r)
            for r, size in zip(rows, sizes, strict=True)
        ]
        costs = [np.log(size / 1e4) for size in sizes]
        return np.array(list(zip(losses, costs, strict=True))).reshape(-1, 2)

    suite = "mixed_crash" if crash else "mixed"
    space = Space(decisions, middle(decisions))
    return Benchmark(suite, str(seed), space, intervals, query, 0.0)


def planted_optimum(seed: int = 0) -> dict[str, Any]:
    """Values at which the function of ``seed`` is 0."""
    best = _planted(seed).best
    values = {n: CATEGORICAL[n][best[n]] for n in CATEGORICAL}
    values |= {n: ORDERED[n][i] for n, i in BEST.items()}
    return values | {"learning_rate": 1e-3, "weight_decay": 1e-5, "dropout": 0.2}


@cache
def planted_front(seed: int = 0) -> list[tuple[float, float]]:
    """The lowest loss of the function of ``seed`` at each log cost, ``(log cost, loss)``, cheapest first.

    Exact over the choices; learning rate, weight decay and dropout are on grids of 301 points of their ranges.
    """
    planted = _planted(seed)
    names = [*CATEGORICAL, *ORDERED]
    shape = [len(c) for c in (CATEGORICAL | ORDERED).values()]
    total = np.zeros(shape, np.float32)
    for group, table in planted.tables.items():
        places = [names.index(n) for n in group]
        ordered = np.transpose(table, np.argsort(places))
        total += ordered.reshape([shape[i] if i in places else 1 for i in range(len(shape))])
    rates, decays = np.linspace(-5, -1, 301)[:, None], np.linspace(-8, -2, 301)[None, :]
    for o, s, deep in np.ndindex(shape[0], shape[5], shape[6]):
        near, apart, cliff = planted.of_rates(o, s, deep - BEST["layers"], rates, decays)
        total[o, :, :, :, :, s, deep] += np.float32((near + apart + cliff).min())
    dropout = (
        np.linspace(0.0, 0.6, 301)[:, None]
        - 0.2
        - 0.05 * (np.arange(shape[7])[None, :] - BEST["width"])
    )
    lowest = total.min(axis=tuple(range(6))) + (1.2 * dropout**2).min(axis=0)[None, :, None]
    sizes = np.array(ORDERED["layers"])[:, None, None] * np.array(ORDERED["width"])[None, :, None]
    costs = np.log(sizes * np.array(ORDERED["embedding"])[None, None, :] / 1e4)
    points = list(zip(costs.ravel().tolist(), lowest.ravel().tolist(), strict=True))
    return [points[i] for i in pareto_front(points)]


class _Planted(NamedTuple):
    """The function of one seed."""

    best: dict[str, int]  # indices of the optimum's choices
    tables: dict[tuple[str, ...], np.ndarray]  # effects of one, two or three decisions
    log_rates: np.ndarray  # shift of the best log10 learning rate, by optimizer
    log_decays: np.ndarray  # shift of the best log10 weight decay, by schedule

    def loss(self, values: Values) -> float:
        """The loss at any values; 0 at the optimum."""
        at = {n: CATEGORICAL[n].index(values[n]) for n in CATEGORICAL}
        at |= {n: ORDERED[n].index(values[n]) for n in ORDERED}
        total = sum(float(t[tuple(at[n] for n in names)]) for names, t in self.tables.items())
        deeper = at["layers"] - BEST["layers"]
        rate, decay = np.log10(values["learning_rate"]), np.log10(values["weight_decay"])
        off_rate, off_decay, cliff = self.of_rates(
            at["optimizer"], at["schedule"], deeper, rate, decay
        )
        total += off_rate
        total += off_decay
        # The best dropout rises with width.
        total += 1.2 * (values["dropout"] - 0.2 - 0.05 * (at["width"] - BEST["width"])) ** 2
        return float(total + cliff)

    def of_rates(self, optimizer: int, schedule: int, deeper: int, rate: Any, decay: Any) -> Any:
        """What log10 learning rate and log10 weight decay add, and a cliff."""
        # The best learning rate falls with depth, the best weight decay with it.
        shift = self.log_rates[optimizer] - self.log_rates[self.best["optimizer"]]
        off = rate + 3.0 - shift + 0.12 * deeper
        slope = self.log_decays[schedule] - self.log_decays[self.best["schedule"]]
        off_decay = decay + 5.0 - 0.5 * slope + 0.8 * (rate + 3.0)
        # Divergence: a cliff above a learning rate that falls with depth.
        beyond = rate + 1.9 + 0.1 * deeper
        return (
            0.25 * (1 - np.exp(-(off**2))),
            0.12 * (1 - np.exp(-0.25 * off_decay**2)),
            0.6 * np.clip(beyond / 0.15, 0.0, 1.0),
        )


def _planted(seed: int) -> _Planted:
    rng = np.random.default_rng([seed, 1])
    best = {n: int(rng.integers(len(c))) for n, c in CATEGORICAL.items()} | BEST
    sizes = {n: len(c) for n, c in (CATEGORICAL | ORDERED).items()}
    tables: dict[tuple[str, ...], np.ndarray] = {}
    for n in CATEGORICAL:
        tables[(n,)] = _zeroed(rng.gamma(1.0, 0.06, sizes[n]), (best[n],))
    for n in ORDERED:
        tables[(n,)] = 0.05 * np.abs(np.arange(sizes[n]) - best[n]) ** 1.3
    for scale, groups in ((0.05, PAIRS), (0.03, TRIPLES)):
        for names in groups:
            table = rng.gamma(1.0, scale, tuple(sizes[n] for n in names))
            for axis, n in enumerate(names):
                if n in ORDERED:  # neighbours on an ordered axis are alike
                    table = _smoothed(table, axis)
            tables[names] = _zeroed(table, tuple(best[n] for n in names))
    rng = np.random.default_rng([seed, 2])
    return _Planted(best, tables, rng.uniform(-0.8, 0.8, 4), rng.uniform(-1.5, 1.5, 6))


def _zeroed(table: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """The table, shifted to a minimum of 0, with 0 also at the optimum."""
    table = table - table.min()
    table[at] = 0.0
    return table


def _smoothed(table: np.ndarray, axis: int) -> np.ndarray:
    """Averages neighbours along an axis with weights 1/4, 1/2, 1/4."""
    padded = np.concatenate(
        [np.take(table, [0], axis), table, np.take(table, [-1], axis)], axis=axis
    )
    parts = [np.take(padded, np.arange(table.shape[axis]) + s, axis) for s in (0, 1, 2)]
    return 0.25 * parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
