"""What is copied from the ledger into a W&B run."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.ledger import rungs
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import curve_of, read_run, values_of
from autorank.ledger.trial import Trial
from autorank.surrogates.measures import defined

LISTS = ("front", "finalists")  # of a summary: W&B's tables and the report have them
IDENTITY = "ledger_identity"  # in W&B's config: which settings count, for `autorank.comparison`
# What is logged, by its prefix, and what it is drawn against.
AXES = {
    "trial/*": "trial/ended",  # trials that have ended, of all stages
    "search/*": "search/passes",  # full passes over the log that the searched trials have cost
    "policy/*": "policy/round",
    "predictor/*": "predictor/round",
}


class Mirror(NamedTuple):
    """The W&B run, and whether it was started here: one that was active before goes on after us."""

    run: Any
    ours: bool


def define_axes(run: Any) -> None:
    """Tells W&B what each value is drawn against."""
    for axis in AXES.values():
        run.define_metric(axis, hidden=True)
    for names, axis in AXES.items():
        run.define_metric(names, step_metric=axis)


def sync(mirror: Mirror, ledger: Ledger) -> None:
    """Logs the trials and rounds that the ledger has gained since the last call."""
    trials = ledger.trials()
    done = [t for t in trials if t.status != "proposed"]
    known, labels = set(ledger.get("wandb_trials") or []), ledger.records(rungs.KIND)
    new = sorted((t for t in done if t.id not in known), key=lambda t: (t.finished_at or 0.0, t.id))
    for trial in new:
        known.add(trial.id)
        # The step is the number of ended trials: it rises also over a resume. A run of somebody else has its own steps.
        step = len(known) if mirror.ours else None
        values = trial_values(trial) | {"trial/ended": len(known)}
        if trial.stage in rungs.SEARCHED:
            values |= search_values([t for t in done if t.id in known], labels)
        mirror.run.log(values, step=step)
    rounds, seen = ledger.records("policy"), ledger.get("wandb_rounds") or 0
    for record in rounds[seen:]:
        mirror.run.log(round_values(record), step=max(1, len(known)) if mirror.ours else None)
    if new:
        for values in new_rounds(trials, {t.id for t in new}):
            mirror.run.log(values, step=len(known) if mirror.ours else None)
        ledger.put("wandb_trials", sorted(known))
    if len(rounds) > seen:
        ledger.put("wandb_rounds", len(rounds))


def search_values(ended: Sequence[Trial], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the search is: trials, passes over the log that they cost, and the best label so far."""
    tried = rungs.climbs(ended, records)
    values = {
        "search/trials": len(tried),
        "search/passes": sum(c.trial.fidelity for c in tried),
        "search/best_ne_gain_percent": rungs.best(ended, records),
    }
    return {name: value for name, value in values.items() if value is not None}


def new_rounds(trials: Sequence[Trial], new: Collection[int]) -> Iterator[dict[str, Any]]:
    """The predictor's measures after each round that ended with one of the new trials.

    They are over all proposals so far, each predicted before it was trained: an honest, if narrow, test.
    """
    rounds: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.stage == "round":
            rounds.setdefault(trial.round, []).append(trial)
    told: list[Trial] = []
    for number, members in sorted(rounds.items()):
        told += [t for t in members if t.predicted and t.quality is not None]
        ended = all(t.status != "proposed" for t in members)
        if ended and any(t.id in new for t in members):
            found = defined([(t.predicted or [None])[0] for t in told], [t.quality for t in told])
            if found:
                named = {f"predictor/{name}": value for name, value in found.items()}
                yield {"predictor/round": number, "predictor/proposals": len(told)} | named


def trial_values(trial: Trial) -> dict[str, Any]:
    """What is logged of a trial that has ended."""
    values = {
        "trial/id": trial.id,
        "trial/stage": trial.stage,
        "trial/failed": int(trial.status == "failed"),
        "trial/fidelity": trial.fidelity,
        f"trial/{'ne' if trial.stage == 'seed_noise' else 'ne_gain_percent'}": trial.quality,
        "trial/flops_ratio": None if trial.cost is None else math.exp(trial.cost),
        "trial/seconds": (trial.outcome or {}).get("seconds"),
    }
    return {name: value for name, value in values.items() if value is not None}


def round_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """The last values of a round's policies, means over them."""
    import numpy as np

    values = {"policy/round": record.get("round")}
    for name in ("entropy", "reward", "distinct"):
        array = np.array(record.get(name) if record.get(name) is not None else [], float)
        last = array[..., -1] if array.ndim > 1 else array
        if np.isfinite(last).any():
            values[f"policy/{name}"] = float(np.nanmean(last))
    return values


def finish(mirror: Mirror, ledger: Ledger, folder: Path, summary: Mapping[str, Any]) -> None:
    """Adds tables of trials and curves, the figures and the summary, and ends the W&B run if it is ours."""
    import wandb

    run = mirror.run
    try:
        sync(mirror, ledger)
        left = read_run(folder)
        names = [d["name"] for d in left.decisions]
        head = ["id", "stage", "round", "rung", "status", "quality", "flops_ratio", "fidelity"]
        trials = wandb.Table(columns=[*head, "seed", "reason", *names])
        curves = wandb.Table(columns=["id", "stage", "window", "ne"])
        for t in left.trials:
            values = values_of(left.decisions, t.config) if names else {}
            ratio = None if t.cost is None else math.exp(t.cost)
            row = [t.id, t.stage, t.round, t.rung, t.status, t.quality, ratio, t.fidelity, t.seed]
            texts = [None if n not in values else str(values[n]) for n in names]
            trials.add_data(*row, t.reason, *texts)
            for window, ne in enumerate(curve_of(left, t)):
                if math.isfinite(ne):
                    curves.add_data(t.id, t.stage, window, float(ne))
        run.log(
            {"trials": trials, "curves": curves}
            | held_out_values(left.trials, summary)
            | held_out_measures(summary)
        )
        pictures = sorted((folder / "figures").glob("*.png"))
        run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures})
        run.summary.update(flattened({k: v for k, v in summary.items() if k not in LISTS}))
        points = summary.get("front") or []
        run.summary.update(
            {f"front.{name}": [p[name] for p in points] for name in ("flops_ratio", "quality")}
        )
    finally:
        if mirror.ours:
            run.finish()


def held_out_values(trials: Sequence[Trial], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The predictor's measures on trials that it was fitted without, known at the end, beside the last round."""
    found = (summary.get("predictor") or {}).get("heldout") or {}
    if not found:
        return {}
    last = max((t.round for t in trials if t.stage == "round"), default=0)
    return {"predictor/round": last} | {f"predictor/heldout_{k}": v for k, v in found.items()}


def held_out_measures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Measures of the baseline and the winner on the held-out rows: ``held_out/winner/ctr/auc`` and so on."""
    found: dict[str, float] = {}
    for role in ("baseline", "winner"):
        for metric, values in ((summary.get(role) or {}).get("measures") or {}).items():
            found |= {
                f"held_out/{role}/{metric}/{m}": v for m, v in values.items() if v is not None
            }
    return found


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values with dotted names, without those that are None."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat
