"""Run folders as finished searches leave them, tiny and by formula, written by the library's own ledger."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from autorank.base.records import flatten
from autorank.ledger.ledger import Ledger

DECISIONS = [
    {"name": "model.width", "choices": [8, 16, 32], "kind": "categorical", "log": False, "parents": ()},
    {"name": "model.num_layers", "choices": [1, 2, 3, 4], "kind": "categorical", "log": False, "parents": ()},
]  # fmt: skip
PREDICTOR = {"members": 10, "margin": 0.001}
SEARCHERS = {
    "autorank": {"name": "autorank", "batch_size": 10, "margin": 0.1, "pool": 384},
    "paper": {"name": "paper", "batch_size": 10, "steps": 2000},
}
GROUPS = {
    "model and training": ("model", "training"),
    "searcher": ("searcher", "predictor"),
    "fidelity": ("fidelity",),
    "plan": ("search",),
}
FREE = ("search.workers", "search.executor", "training.devices")


def settings(searcher: str, seed: int, **changes: Any) -> dict[str, Any]:
    """A search's config; changes are by dotted key with ``__`` for the dot."""
    config: dict[str, Any] = {
        "name": "log",
        "runs": "runs",
        "data": {"source": "log", "folder": "cache", "train_fraction": 0.8},
        "model": {"width": 16, "num_layers": 2},
        "training": {"dense_rate": 1e-3, "devices": 1},
        "space": {"grid_size": 8, "decisions": {d["name"]: str(d["choices"]) for d in DECISIONS}},
        "searcher": dict(SEARCHERS[searcher]),
        "predictor": dict(PREDICTOR),
        "fidelity": {"kind": "pilots", "num_pilots": 3},
        "search": {"trials": 8, "seed": seed, "metric": "ctr", "workers": 2, "executor": "auto"},
        "backend": {"kind": "local"},
        "tracking": {"mode": "auto"},
    }
    for key, value in changes.items():
        group, _, name = key.rpartition("__")
        (config[group] if group else config)[name] = value
    return config


def identity(config: dict[str, Any], data: str) -> dict[str, str]:
    """As `autorank.app.identity` writes it."""
    flat = {k: v for k, v in flatten(config).items() if k not in FREE}
    if config["searcher"]["name"] != "paper":
        flat = {k: v for k, v in flat.items() if not k.startswith("predictor.")}
    items = {
        item: json.dumps({k: v for k, v in flat.items() if k.split(".")[0] in groups})
        for item, groups in GROUPS.items()
    }
    return {"data": data, "space": "space"} | items


def write_run(
    folder: Path, config: dict[str, Any], gain: float, *, data: str = "d1", name: str = "log",
    noise: float = 0.05, ne: float | None = None, finished: bool = True, revision: str = "abc",
    measures: dict[str, float] | None = None,
) -> Path:  # fmt: skip
    """Three pilots on the whole log and five trials on half of it; ``gain`` is the winner's test."""
    folder.mkdir(parents=True)
    seed = config["search"]["seed"]
    rng = np.random.default_rng([seed, round(1e6 * abs(gain))])
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with Ledger.open(folder / "trials.db", identity(config, data)) as ledger:
        ledger.put("decisions", DECISIONS)
        ledger.put("baseline", [1, 1])
        configs = [(w, n) for w in range(3) for n in range(4) if (w, n) != (1, 1)]
        order = rng.permutation(len(configs))[:8]
        batches = (("pilot", order[:3], 1.0), ("round", order[3:], 0.5))
        for stage, places, fidelity in batches:
            if stage == "round":
                rungs = {"rungs": [0.5], "pilots": {t.id: [t.quality] for t in ledger.trials()}}
                ledger.record("rungs", "pilots", rungs)
            chosen = [configs[i] for i in places]
            for trial in ledger.propose(stage, 0, chosen, [seed] * len(chosen), fidelity):
                if not finished and trial.position == 2:
                    return folder
                label = float(0.2 * rng.normal() + gain)
                cost = 0.5 * (trial.config[0] - 1) + 0.3 * (trial.config[1] - 1)
                outcome = {"curve": [[0.9]], "num_rows": 1000 * fidelity, "flops": 100.0}
                ledger.finish(trial.id, outcome, label, cost)
    winner: dict[str, Any] = {
        "ne": 0.9 * (1 + gain / 100) if ne is None else ne,
        "choices": list(configs[0]),
    }
    if measures:
        winner["measures"] = {"ctr": measures}
    summary = {
        "status": "finished",
        "name": name,
        "metric": config["search"]["metric"],
        "tasks": ["ctr"],
        "seed": seed,
        "num_trials": 8,
        "trained_examples": 5500,
        "seed_noise_percent": noise,
        "winner": winner,
        "ne_gain_percent": {"mean": gain},
        "ne_gain_on": "held-out test",
        "git_revision": revision,
    }
    (folder / "summary.json").write_text(json.dumps(summary, allow_nan=False))
    return folder


# Four settings x three seeds. Seeds share their luck, so that pairs say more than means.
LUCK = {0: -0.30, 1: 0.25, 2: 0.05}
SETTINGS: list[tuple[str, dict[str, Any], float]] = [
    ("autorank", {}, -0.50),
    ("paper", {"predictor__members": 1}, -0.10),
    ("paper", {"predictor__members": 3}, -0.20),
    ("paper", {"predictor__members": 10}, -0.49),
]


def gain_of(place: int, seed: int) -> float:
    """The planted gain of a setting and a seed."""
    own = 0.03 * math.sin(7 * place + 3 * seed)
    return SETTINGS[place][2] + LUCK[seed] + own


def write_twelve(runs: Path) -> Path:
    """The twelve runs, named so that neither group nor seed can be read off the order of the folders."""
    for seed in LUCK:
        for place, (searcher, changes, _) in enumerate(SETTINGS):
            number = (5 * (4 * seed + place)) % 12
            config = settings(
                searcher, seed, name=f"job-{number}", search__workers=1 + number % 3, **changes
            )
            write_run(
                runs / f"job-{number}", config, gain_of(place, seed), noise=0.05 + 0.01 * place
            )
    return runs
