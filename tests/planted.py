"""A search problem whose answer is known: curves by formula, no training, a corner of the space that fails."""

import math
import time

import numpy as np

from autorank.base.programs import ProgramStats
from autorank.objectives.base import Objective, Outcome
from autorank.space.parse import parse_space
from autorank.space.space import Space

NUM_WINDOWS = 20
NUM_ROWS = 2000


def planted_space() -> Space:
    return parse_space(
        {
            "depth": "choice(1,2,3,4)",
            "module": "choice(dot,cross,attention)",
            "heads": "choice(1,2,4)",
            "rate": "tag(log, interval(1e-4, 1e-1))",
            "width": "choice(8,16,32,64)",
        },
        {"heads": {"module": ["attention"]}},
        {"depth": 2, "module": "dot", "heads": 1, "rate": 1e-3, "width": 16},
        grid_size=7,
    )


def true_ne(values: dict) -> float:
    """Level of the curve: best with attention of 4 heads, depth 3, rate near 1e-2."""
    ne = 0.90 - 0.004 * {"dot": 0, "cross": 1, "attention": 1}[values["module"]]
    ne -= 0.003 * math.log2(values.get("heads", 1))
    ne += 0.004 * abs(values["depth"] - 3) + 0.006 * abs(math.log10(values["rate"]) + 2)
    return ne - 0.001 * math.log2(values["width"] / 16)


def fails(values: dict) -> bool:
    return values["rate"] > 5e-2 and values["depth"] == 4


def planted_objective(space: Space, noise: float = 1e-4, seconds: float = 0.0) -> Objective:
    """Curves fall to their level; deeper starts slower; seeds add noise that is a function of (config, seed)."""

    def flops(config: np.ndarray) -> float:
        values = space.decode(config)
        return 1000.0 * values["depth"] * values["width"] ** 2

    def curve_of(config: np.ndarray, seed: int) -> np.ndarray:
        values = space.decode(config)
        rng = np.random.default_rng([int(seed), *map(int, config)])
        t = np.arange(1, NUM_WINDOWS + 1)
        shape = 0.08 * np.exp(-t / (2.0 + values["depth"]))
        return true_ne(values) + shape + noise * rng.normal(size=NUM_WINDOWS)

    def evaluate(configs, seeds, fidelity):
        reached = max(1, round(fidelity * NUM_WINDOWS))
        for i, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            time.sleep(seconds)
            failed = "non-finite loss at step 3" if fails(space.decode(config)) else ""
            curve = curve_of(config, seed)[:, None]
            curve = np.where(
                np.arange(NUM_WINDOWS)[:, None] < (0 if failed else reached), curve, np.nan
            )
            ne = (math.nan if failed else float(np.nanmean(curve)),)
            yield (
                i,
                Outcome(curve, ne, flops(config), round(fidelity * NUM_ROWS), 0.0, 0.0, failed, {}),
            )

    labels = (np.arange(400) % 3 == 0).astype(np.float64)[:, None]

    def test(config, seed):
        # A model that ranks as well as its NE says: probabilities shrunk towards the base rate.
        quality = 1.2 - true_ne(space.decode(config))
        rng = np.random.default_rng([int(seed), 7])
        logit = -0.7 + 4 * quality * (labels[:, 0] - 1 / 3) + 0.05 * rng.normal(size=len(labels))
        return 1 / (1 + np.exp(-logit))[:, None]

    return Objective(
        name="planted",
        fingerprint="planted-1",
        metrics=("ctr",),
        num_rows=NUM_ROWS,
        num_windows=NUM_WINDOWS,
        evaluate=evaluate,
        cost=lambda configs: np.array([flops(c) for c in configs]),
        stats=lambda: ProgramStats(0, 0, 0.0),
        test=test,
        qps=lambda config: 1e9 / flops(config),
        test_labels=labels,
    )
