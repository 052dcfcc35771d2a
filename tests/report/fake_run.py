"""A run folder as a search leaves it, with numbers by formula: no training, no JAX."""

import json
import math
from pathlib import Path

import numpy as np

from autorank.ledger.ledger import Ledger

IDENTITY = {"data": "fake", "space": "fake", "seed": "0"}
NUM_WINDOWS, NUM_ROWS = 50, 100_000
MEASURES = {
    "auc": 0.7125,
    "gauc": 0.6543,
    "ndcg@5": 0.5,
    "log_loss": 0.4,
    "calibration": 1.031,
    "ece": 0.01,
}
NASTY = '<script>alert("x")</script>&amp;'  # settings are data and must stay data


def decision(name: str, choices: list, parents: tuple = ()) -> dict:
    return {
        "name": name,
        "choices": choices,
        "kind": "categorical",
        "log": False,
        "parents": parents,
    }


DECISIONS = [
    decision("model.num_layers", [1, 2, 3, 4, 6]),
    decision("model.layer0.a", ["dot", "attention", "linear", "cross", NASTY]),
    decision("model.layer0.heads", [1, 2, 4], (("model.layer0.a", ("attention",)),)),
    decision("model.width", [8, 16, 32, 64]),
    decision("model.norm", ["pre", "post", "none"]),
    decision("training.dense_rate", [3e-4, 1e-3, 3e-3, 1e-2]),
    decision("training.table_rate", [0.01, 0.05, 0.2]),
    decision("training.init_scale", [0.1, 0.3, 1.0]),
]
BASELINE = (1, 0, 0, 1, 1, 1, 1, 2)


def level(config: tuple) -> float:
    """Final NE gain in percent: depth, attention and the rate matter, the rest hardly."""
    gain = -0.25 * config[0] * (config[0] < 4) - 0.5 * (config[1] == 1) - 0.15 * config[2]
    return (
        gain
        + 0.5 * abs(config[5] - 2)
        - 0.04 * config[3]
        + (25.0 if config[7] == 0 and config[5] == 3 else 0)
    )


def cost(config: tuple) -> float:
    return 0.35 * (config[0] - 1) + 0.5 * (config[3] - 1) + 0.3 * (config[1] == 1)


def outcome(config: tuple, seed: int, fidelity: float, failed: str = "") -> dict:
    rng = np.random.default_rng([*config, seed])
    t = np.arange(1, NUM_WINDOWS + 1)
    common = 0.004 * np.random.default_rng(7).normal(size=NUM_WINDOWS)  # the same rows for all
    start = 0.12 * np.exp(-t / (4.0 + 2 * config[0]))
    ne = 0.85 * (1 + (level(config) - level(BASELINE)) / 100) + start + common
    ne = ne + 0.0006 * rng.normal() + 0.0006 * rng.normal(size=NUM_WINDOWS)
    ne = np.where(t <= (3 if failed else round(fidelity * NUM_WINDOWS)), ne, np.nan)
    return {
        "curve": np.stack([ne, ne + 0.05], axis=1),
        "ne": [float(np.nanmean(ne)), 0.9],
        "flops": 1000 * math.exp(cost(config)),
        "num_rows": round(fidelity * NUM_ROWS),
        "seconds": 2.5,
        "compile_seconds": 1.2,
        "failed": failed,
        "details": {},
    }


def gain_of(config: tuple, seed: int, last: int = NUM_WINDOWS, first: int = 0) -> float:
    base = np.mean([outcome(BASELINE, s, 1.0)["curve"][:, 0] for s in range(5)], axis=0)
    curve = outcome(config, seed, 1.0)["curve"][:, 0]
    return float(np.mean(100 * (curve / base - 1)[first or 3 * last // 4 : last]))


def write_run(folder: Path, num_trials: int = 60, finished: bool = True) -> Path:
    """Seed noise, 20 pilots, rounds of 10, finals; every ninth trial fails; with ``finished`` the summary too."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    (folder / "config.yaml").write_text(f"name: {NASTY!r}\nsearch:\n  trials: 60\n")
    with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
        ledger.put("decisions", DECISIONS)
        ledger.put("baseline", list(BASELINE))
        rows = ledger.propose("seed_noise", 0, [BASELINE] * 5, range(5), 1.0)
        levels = []
        for trial in rows:
            result = outcome(BASELINE, trial.seed, 1.0)
            levels.append(float(result["curve"][37:, 0].mean()))
            ledger.finish(trial.id, result, levels[-1], None)
        noise = float(100 * np.std(levels, ddof=1) / np.mean(levels))
        ledger.record("seed_noise", "baseline", {"ne": levels, "noise_percent": noise})
        best = list(search_rounds(ledger, rng, num_trials, finished))
        if finished:
            finals = sorted(set(best))[:3]
            write_summary(folder, ledger, [c for _, c in finals], noise)
    return folder


def search_rounds(ledger, rng, num_trials, finished):
    fractions = [round(0.1 * i, 1) for i in range(1, 11)]
    tau = [0.42, 0.55, 0.68, 0.78, 0.82, 0.86, 0.9, 0.94, 0.97, 1.0]
    sizes, seen, count = [("pilot", 0, 20)], {BASELINE}, 20
    pilots: dict[int, list[float]] = {}  # labels at the fraction chosen
    while count < num_trials:
        sizes.append(("round", len(sizes) - 1, min(10, num_trials - count)))
        count += sizes[-1][2]
    for stage, number, size in sizes:
        configs = []
        while len(configs) < size:
            config = tuple(int(rng.integers(len(d["choices"]))) for d in DECISIONS)
            if stage == "round" and rng.random() < 0.7:
                config = (3, 1, 2, config[3], config[4], 2, config[6], config[7])
            config = config if config[1] == 1 else (*config[:2], BASELINE[2], *config[3:])
            if config not in seen:
                seen.add(config)
                configs.append(config)
        predicted = None
        if stage == "round":
            predicted = [(level(c) + 0.3 * rng.normal(), cost(c)) for c in configs]
            ledger.record("policy", str(number), policy_record(number))
        fidelity = 1.0 if stage == "pilot" else 0.4
        if stage == "round":
            ledger.record("rungs", "pilots", {"rungs": [0.4], "pilots": pilots})
            ledger.record(
                "fidelity",
                "choice",
                {
                    "fractions": fractions,
                    "tau": tau,
                    "low": [t - 0.2 for t in tau],
                    "high": [min(1.0, t + 0.1) for t in tau],
                    "tau_without_trend": [t - 0.06 for t in tau[:-1]] + [1.0],
                    "dx": [0.0] * 10,
                    "chosen_fraction": 0.4,
                    "chosen_tau": 0.78,
                    "chosen_dx": 5.0,
                    "plateau": 0.8,
                    "reason": "smallest that keeps the order",
                    "num_pilots": 20,
                    "num_finished": 18,
                },
            )
        for trial in ledger.propose(stage, number, configs, [0] * size, fidelity, predicted):
            if not finished and (stage, number, trial.position) >= (sizes[-1][0], sizes[-1][1], 3):
                return
            failed = "non-finite loss at step 31" if trial.id % 9 == 0 else ""
            label = None if failed else gain_of(trial.config, 0, round(fidelity * NUM_WINDOWS))
            result = outcome(trial.config, 0, fidelity, failed)
            done = ledger.finish(trial.id, result, label, cost(trial.config))
            if done.quality is not None:
                at_rung = gain_of(trial.config, 0, round(0.4 * NUM_WINDOWS))
                pilots |= {done.id: [at_rung]} if stage == "pilot" else {}
                yield at_rung, done.config


def policy_record(number: int) -> dict:
    steps = np.linspace(0, 1999, 100)
    if number == 0:
        return {
            "round": 0,
            "entropy": np.full((3, 1, 100), np.nan),
            "reward": np.full((3, 1, 100), np.nan),
            "distinct": [math.nan] * 3,
            "step": steps,
        }
    fall = np.exp(-steps / (500 + 100 * number))
    wave = np.stack([0.03 * np.sin(steps / 90 + a)[None] for a in range(3)])
    return {
        "round": number,
        "entropy": 0.1 + 0.9 * fall + wave * fall,
        "step": steps,
        "reward": 1.5 * (1 - fall) + wave,
        "distinct": [0.31, 0.28, 0.2],
    }


def write_summary(folder: Path, ledger: Ledger, finals: list, noise: float) -> None:
    gains = []
    for trial in ledger.propose(
        "final", 0, [c for c in finals for _ in range(5)], [*range(5)] * len(finals), 1.0
    ):
        value = gain_of(trial.config, trial.seed)
        gains.append(value)
        ledger.finish(trial.id, outcome(trial.config, trial.seed, 1.0), value, cost(trial.config))
    table = np.array(gains).reshape(len(finals), 5)
    costs = [cost(c) for c in finals]
    bins = [(100, 0.02 * k, 0.018 * k) for k in range(20)]
    calibrated = {name: {"ctr": bins} for name in ("baseline", "winner")}
    ledger.record("test", "test", {"reliability": calibrated})
    ledger.record(
        "finals",
        "validation",
        {
            "configs": finals,
            "seeds": list(range(5)),
            "gain": table,
            "costs": costs,
        },
    )
    ledger.record(
        "confirmation",
        "validation",
        {
            "configs": finals[:1],
            "seeds": list(range(5, 10)),
            "gain": table[:1] + 0.05,
            "costs": costs[:1],
        },
    )
    winner = int(np.argmin(table.mean(axis=1)))
    cheap = int(np.argmin(costs))

    def names(config: tuple) -> dict:
        return {d["name"]: d["choices"][i] for d, i in zip(DECISIONS, config, strict=True)}

    def model(config: tuple, i: int | None) -> dict:
        ratio = math.exp(cost(config))
        entry = {
            "config": names(config),
            "choices": list(config),
            "flops": 1000 * ratio,
            "flops_ratio": ratio,
            "qps": 5e6 / ratio,
            "ne": 0.85,
            "test": None,
            "qps_ratio": {"ratio": 1 / ratio, "low": 0.95 / ratio, "high": 1.05 / ratio},
            "measures": {"ctr": MEASURES, "cvr": MEASURES | {"gauc": None}},
        }
        if i is not None:
            mean = float(table[i].mean())
            test = {
                "gains": table[i].tolist(),
                "mean": mean,
                "low": mean - 0.1,
                "high": mean + 0.1,
                "p": 1e-4,
                "rows_low": mean - 0.2,
                "rows_high": mean + 0.2,
            }
            entry |= {"ne": 0.85 * (1 + mean / 100), "test": {"ctr": test, "cvr": test}}
        return entry

    best = model(finals[winner], winner)
    miss = {
        "finalist": cheap + 1,
        "choices": list(finals[cheap]),
        "flops_ratio": math.exp(costs[cheap]),
        "mean": -0.1,
        "bound": 0.05,
        "passed": True,
    }
    survived = []
    for i, config in enumerate(finals):
        gain = {
            "mean": float(table[i].mean()),
            "low": -2.0,
            "high": 0.5,
            "seeds": table[i].tolist(),
        }
        survived.append(
            {
                "trial": 30 + i,
                "choices": list(config),
                "config": names(config),
                "flops_ratio": math.exp(costs[i]),
                "label": gain_of(config, 0, 20),
                "label_without_luck": gain_of(config, 0, 20) + 0.01,
                "validation_gain_percent": gain,
                "test": {m: best["test"][m] for m in ("ctr", "cvr")},
                "confirmed_gain_percent": gain if i in (winner, cheap) else None,
                "failed": "",
                "roles": ["winner"] * (i == winner) + ["equal_ne"] * (i == cheap),
            }
        )
    summary = {
        "status": "finished",
        "name": "fake " + NASTY,
        "metric": "ctr",
        "tasks": ["ctr", "cvr"],
        "seed": 0,
        "seeds": list(range(5)),
        "num_trials": 60,
        "num_failed": 7,
        "fidelity_fraction": 0.4,
        "kendall_tau": 0.78,
        "seed_noise_percent": noise,
        "baseline": model(BASELINE, None),
        "winner": best,
        "winner_equal_cost": None,
        "winner_equal_ne": model(finals[cheap], cheap),
        "ne_gain_percent": best["test"]["ctr"],
        "ne_gain_on": "held-out test",
        "flops_gain_percent": -22.0,
        "qps_gain_percent": 25.0,
        "per_task": {
            m: {"baseline_ne": 0.85, "winner_ne": 0.83, "ne_gain_percent": best["test"][m]}
            for m in ("ctr", "cvr")
        },
        "choice_seeds": [1, 2, 3],
        "qps_gain_interval": {"low": 19.0, "high": 31.0},
        "equal_ne": {"margin": 0.1, "level": 0.95, "tests": [miss], "nearest_miss": None},
        "verdict": {"least_gain_percent": 0.2, "power": 0.8, "num_seeds": 5},
        "label_luck": {
            "best_label": -1.4,
            "num_labels": 53,
            "expected_best_copy": -0.2,
            "luckiest_copy": -0.6,
            "quantile": 0.95,
        },
        "finalists": survived,
        "front": [],
        "bayes_ne": {"test": {"ctr": 0.8, "cvr": 0.82}},
        "warnings": [
            {
                "signature": "policy collapse",
                "message": "entropy fell to 3%",
                "advice": f"use searcher.entropy_coef=1e-2 {NASTY}",
            }
        ],
        "wall_seconds": 312.0,
        "num_compiles": 55,
        "compile_seconds": 71.0,
        "num_sessions": 1,
        "trained_examples": 5_600_000,
        "versions": {"python": "3.11", "jax": "0.10"},
        "device": "cpu",
        "git_revision": "abc",
        "finished_at": 1.8e9,
    }
    (folder / "summary.json").write_text(json.dumps(summary, allow_nan=False))
