"""Made-up recorded runs over a small space."""

import numpy as np

from autorank.recorded.journal import Header, Run
from autorank.recorded.plan import Plan, configurations
from autorank.recorded.space_text import space_text
from autorank.recorded.table import RecordedTable, made_table
from autorank.space.space import Decision, Space

SPACE = Space(
    (
        Decision("model.depth", (1, 2, 3), "number"),
        Decision("model.norm", ("pre", "post", "none")),
        Decision("model.wide", (8, 16), "number", True, (("model.depth", (2, 3)),)),
        Decision("training.rate", (1e-3, 1e-2, 1e-1), "number", True),
    ),
    (0, 2, 0, 1),
)
PLAN = Plan(configurations=20, repeated=6, more_seeds=2, seed=3)
METRICS, WINDOWS = ("ctr", "cvr"), 8
FAILED = 5  # this configuration fails, with all seeds
HEADER = Header(
    {"space": SPACE.fingerprint(), "seed": str(PLAN.seed)},
    {
        "metrics": list(METRICS),
        "num_windows": WINDOWS,
        "num_rows": 800,
        "seed": PLAN.seed,
        "space": space_text(SPACE),
        "space_fingerprint": SPACE.fingerprint(),
        "bayes_ne": {"ctr": 0.5, "cvr": 0.6},
    },
)


def curve_of(config: np.ndarray, seed: int) -> np.ndarray:
    """Window NE ``[t, q]`` that falls, with a level by configuration and noise by seed; cvr's first window has none."""
    rng = np.random.default_rng([seed, 1])
    level = 0.8 + 0.02 * float(np.sum(config)) + rng.normal(0, 0.002)
    curve = level + 0.1 * np.exp(-np.arange(WINDOWS) / 2)[:, None] + np.array([0.0, 0.05])
    curve[0, 1] = np.nan
    return curve.astype(np.float32)


def run_of(number: int, repeat: int, config: np.ndarray) -> Run:
    """A run; that of `FAILED` reached three windows."""
    seed = PLAN.seed_of(number, repeat)
    curve, failed = curve_of(config, seed), ""
    if number == FAILED:
        curve[3:], failed = np.nan, "non-finite loss at step 31 of 80"
    ne = tuple(float(v) for v in np.nanmean(curve, axis=0))
    flops = 1e5 * (1 + int(config[0]))
    return Run(number, repeat, seed, curve, ne, flops, 800, failed, 0.5, 0.1, float(number), 0)


def all_runs() -> list[Run]:
    """The runs of `PLAN`."""
    configs = configurations(SPACE, PLAN)
    return [run_of(number, repeat, configs[number]) for number, repeat in PLAN.runs()]


def slices_of(curve: np.ndarray) -> np.ndarray:
    """Losses of three slices ``[t, 3]`` around a curve; the last has no rows in the first window."""
    found = curve[:, :1] * np.array([0.5, 0.6, 0.9], np.float32)
    found[0, 2] = np.nan
    return found.astype(np.float32)


def recorded_table(slices: bool = False) -> RecordedTable:
    """The whole table."""
    about = {k: v for k, v in HEADER.about.items() if k != "space"}
    about |= {
        "identity": HEADER.identity,
        "plan": PLAN._asdict(),
        "sessions": [{"device": "a device"}],
    }
    runs = all_runs()
    if slices:
        rows = np.full((WINDOWS, 3), 30)
        rows[0, 2] = 0
        about["slices"] = {"field": "tab", "count": 3, "rows": rows.tolist()}
        runs = [run._replace(slices=slices_of(run.curve)) for run in runs]
    return made_table(SPACE, configurations(SPACE, PLAN), runs, about)
