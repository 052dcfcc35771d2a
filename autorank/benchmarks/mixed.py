"""A planted mixed function shaped like the tuning of a ranking model; its minimum is 0, by construction.

Twelve decisions (six categorical, three ordered, three continuous of which two logarithmic): main effects, pairs and
triples as tables that are zero at the planted optimum and positive elsewhere; learning rate, weight decay and dropout
with optima that move with other decisions; a cliff where the learning rate diverges. With ``crash`` the models too big
for an imagined memory fail: 17 % of uniform samples, and the optimum lies next to them.
"""

from collections.abc import Sequence

import numpy as np

from autorank.benchmarks.base import Benchmark, Interval, Values, number
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
PAIRS = (("interaction", "optimizer"), ("interaction", "layers"), ("norm", "activation"), ("optimizer", "schedule"),
         ("width", "embedding"), ("ensemble", "interaction"))  # fmt: skip
TRIPLES = (("interaction", "norm", "ensemble"), ("optimizer", "activation", "layers"))
# Layers times width times embedding above this crash: 17.3 % of uniform samples.
MEMORY = 120_000
# Rows of `ORDERED` at the optimum: 4 layers of width 256 with embeddings of 96 (98,304) fit, one step up does not.
BEST = {"layers": 3, "width": 4, "embedding": 4}


def mixed(seed: int = 0, *, crash: bool = False, grid_size: int = 64) -> Benchmark:
    """The function of ``seed``; peers may propose any learning rate, weight decay and dropout."""
    tables, best = _tables(seed)
    rng = np.random.default_rng([seed, 2])
    rate_of = rng.uniform(-0.8, 0.8, 4)
    decay_of = rng.uniform(-1.5, 1.5, 6)
    floats = [
        number("learning_rate", 1e-5, 1e-1, grid_size, log=True),
        number("weight_decay", 1e-8, 1e-2, grid_size, log=True),
        number("dropout", 0.0, 0.6, grid_size),
    ]
    decisions = [
        *(Decision(n, c) for n, c in CATEGORICAL.items()),
        *(Decision(n, c, "number", n != "layers") for n, c in ORDERED.items()),
        *(d for d, _ in floats),
    ]
    intervals = {d.name: i for d, i in floats} | {"layers": Interval(1, 8, True)}
    middle = tuple(len(d.choices) // 2 for d in decisions)

    def loss_of(values: Values) -> float:
        if crash and values["layers"] * values["width"] * values["embedding"] > MEMORY:
            return float("nan")
        at = {n: CATEGORICAL[n].index(values[n]) for n in CATEGORICAL}
        at |= {n: ORDERED[n].index(values[n]) for n in ORDERED}
        total = sum(float(t[tuple(at[n] for n in names)]) for names, t in tables.items())
        # The best learning rate falls with depth, the best weight decay with it, dropout rises with width.
        rate = np.log10(values["learning_rate"])
        shift = rate_of[at["optimizer"]] - rate_of[best["optimizer"]]
        off = rate + 3.0 - shift + 0.12 * (at["layers"] - BEST["layers"])
        total += 0.25 * (1 - np.exp(-(off**2)))
        slope = decay_of[at["schedule"]] - decay_of[best["schedule"]]
        off_decay = np.log10(values["weight_decay"]) + 5.0 - 0.5 * slope + 0.8 * (rate + 3.0)
        total += 0.12 * (1 - np.exp(-0.25 * off_decay**2))
        total += 1.2 * (values["dropout"] - 0.2 - 0.05 * (at["width"] - BEST["width"])) ** 2
        # Divergence: a cliff above a rate that falls with depth.
        beyond = rate + 1.9 + 0.1 * (at["layers"] - BEST["layers"])
        return float(total + 0.6 * np.clip(beyond / 0.15, 0.0, 1.0))

    def query(rows: Sequence[Values]) -> np.ndarray:
        costs = [np.log(r["layers"] * r["width"] * r["embedding"] / 1e4) for r in rows]
        return np.array([[loss_of(r), c] for r, c in zip(rows, costs, strict=True)]).reshape(-1, 2)

    suite = "mixed_crash" if crash else "mixed"
    return Benchmark(suite, str(seed), Space(tuple(decisions), middle), intervals, query, 0.0)


def planted_optimum(seed: int = 0) -> dict:
    """Values at which the function of ``seed`` is 0."""
    _, best = _tables(seed)
    values = {n: CATEGORICAL[n][best[n]] for n in CATEGORICAL}
    values |= {n: ORDERED[n][i] for n, i in BEST.items()}
    return values | {"learning_rate": 1e-3, "weight_decay": 1e-5, "dropout": 0.2}


def _tables(seed: int) -> tuple[dict[tuple[str, ...], np.ndarray], dict[str, int]]:
    """Effects that are 0 at the optimum and not negative elsewhere; and the optimum's indices."""
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
            shape = tuple(sizes[n] for n in names)
            table = rng.gamma(1.0, scale, shape)
            for axis, n in enumerate(names):
                if n in ORDERED:  # neighbours on an ordered axis are alike
                    table = _smoothed(table, axis)
            tables[names] = _zeroed(table, tuple(best[n] for n in names))
    return tables, best


def _zeroed(table: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """Shifted so that its least value is 0, which then also stands at the optimum."""
    table = table - table.min()
    table[at] = 0.0
    return table


def _smoothed(table: np.ndarray, axis: int) -> np.ndarray:
    padded = np.concatenate(
        [np.take(table, [0], axis), table, np.take(table, [-1], axis)], axis=axis
    )
    parts = [np.take(padded, np.arange(table.shape[axis]) + s, axis) for s in (0, 1, 2)]
    return 0.25 * parts[0] + 0.5 * parts[1] + 0.25 * parts[2]


def crash_share() -> float:
    """Share of uniform samples that fail, exactly."""
    sizes = [ORDERED[n] for n in ("layers", "width", "embedding")]
    products = np.prod(np.array(np.meshgrid(*sizes)).reshape(3, -1), axis=0)
    return float(np.mean(products > MEMORY))
