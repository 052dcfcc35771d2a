"""The programs' bodies: a search from settings to report, one model from settings to weights."""

import csv
import functools
import itertools
import logging
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from autorank.app import build
from autorank.app.earlier_ledgers import carried_over
from autorank.app.settings import SearchConfig, TrainConfig, TuneConfig
from autorank.app.tracking import start_tracking
from autorank.base.code_revision import code_revision
from autorank.base.jax_settings import own_settings
from autorank.base.measurable import of_metric, targets_of
from autorank.base.metrics import auc, log_loss, normalized_entropy
from autorank.base.plugins import load_plugins
from autorank.base.records import flatten, locations, plain, with_values
from autorank.data.format.batches import Dataset
from autorank.data.prepare.scoring_files import save_scoring_files
from autorank.fidelity.curve_label import curve_label
from autorank.ledger.ledger import Ledger
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps
from autorank.objectives import cluster
from autorank.objectives.base import Objective
from autorank.report.console import console_table
from autorank.report.page import write_report
from autorank.search.checks import refuse_finished_by_earlier_version
from autorank.search.meter import Event
from autorank.search.progress import Progress
from autorank.search.run import run
from autorank.serving.export import load_model, save_model
from autorank.space.space import Space
from autorank.training.compact import Setting

LOG = logging.getLogger("autorank")
PACKAGES = ("autorank", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")


@own_settings()
def run_search(config: SearchConfig, folder: Path) -> dict[str, Any]:
    """Runs or resumes the search of a run folder and leaves ledger, summary, report and the winner in it.

    Raises:
        LedgerMismatch, RunInUse, SearchStopped: with what to do about it.
    """
    if config.fresh:
        set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    workers = build.workers(config.backend)
    if workers is not None:
        cluster.connect(workers)
    data = build.dataset(config.data, LOG.info)
    space = build.space(config)
    objective = build.objective(config, data, space)
    if workers is not None:
        make = functools.partial(worker_objective, located(config))
        objective = cluster.distributed(objective, make, workers)
    LOG.info("%s", describe(space, objective, data))
    warn_of_windows(objective, build.plan(config).metric)
    known_as = functools.partial(carried_over, config=config, folder=folder)
    own = build.identity(config, space, data)
    with Ledger.open(folder / "trials.db", own, known_as) as ledger:
        refuse_finished_by_earlier_version(ledger, config.search.seed)
        ledger.put("decisions", [d._asdict() for d in space.decisions])
        ledger.put("baseline", [int(v) for v in space.baseline])
        write_atomically(folder / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
        known = len(ledger.trials())
        if known:
            LOG.info("resuming %s: its ledger holds %d rows", folder, known)
        tracker = start_tracking(config.tracking, folder, ledger, plain(config))
        progress = Progress()

        def notify(event: Event) -> None:
            progress(event)
            tracker.sync()

        try:
            summary = run(
                objective,
                space,
                build.searcher(config, space),
                ledger,
                build.plan(config),
                build.fidelity_rule(config.fidelity, config.search.seed),
                build.predictor(config, space),
                notify,
            )
        finally:
            progress.close()
        summary |= {"bayes_ne": data.schema.notes.get("bayes_ne")} | provenance()
        write_atomically(folder / "summary.json", dumps(summary, indent=1))
        export_winner(objective, summary, data, folder / "model")
        summary |= {"exported": measure_export(folder / "model", data, config, summary)}
        write_atomically(folder / "summary.json", dumps(summary, indent=1))
        report = write_report(folder)
        tracker.finish(folder, summary)
    print(console_table(summary))
    print(f"report: {report}")
    return summary


def located(config: SearchConfig) -> SearchConfig:
    """Settings whose files are found from any folder."""
    places = {
        name: str(Path(place).resolve()) for name, place in locations(config.data).items() if place
    }
    return replace(config, data=replace(config.data, **places))


@own_settings()
def worker_objective(config: SearchConfig) -> Objective:
    """What a worker of a cluster evaluates with: the driver's objective, built there."""
    load_plugins()
    data = build.dataset(config.data, LOG.info)
    return build.objective(config, data, build.space(config))


def describe(space: Space, objective: Objective, data: Dataset) -> str:
    """One paragraph a person reads before the search starts."""
    assert objective.cost is not None
    baseline = objective.cost(np.array([space.baseline], np.int32))[0]
    sample = np.asarray(space.sample(jax.random.key(0), 256))
    largest = objective.cost(sample).max() / baseline
    schema = data.schema
    return (
        f"{schema.name}: {schema.num_train:,} training rows, {schema.num_rows - schema.num_train:,} held out, "
        f"{len(schema.fields)} categorical fields ({schema.num_ids:,} ids), {len(schema.dense)} dense; "
        f"space of {space.num_decisions} decisions and {float(space.cardinality()):.3g} configurations, "
        f"up to {largest:.0f}x the baseline's {baseline:,.0f} FLOPs in a sample of 256"
    )


def warn_of_windows(objective: Objective, metric: str) -> None:
    """Says how many windows of the searched metric's curve have one class only."""
    if objective.measurable is None:
        return
    where = of_metric(objective.measurable, objective.metrics, metric)
    if not where.all():
        LOG.warning(
            "search.metric=%s: %d of %d windows of the training rows lack a positive or a negative; they are left out "
            "of every curve and label",
            metric,
            (~where).sum(),
            len(where),
        )


def export_winner(
    objective: Objective, summary: Mapping[str, Any], data: Dataset, folder: Path
) -> None:
    """Weights, program and encoders of the winner's run with the first seed of the verdict; once."""
    winner = summary["winner"]
    if winner is None or objective.trained is None or (folder / "model.json").exists():
        return
    trained = objective.trained(np.array(winner["choices"], np.int32), summary["seeds"][0])
    save_trained(trained, data, folder, {"run": summary["name"], "config": winner["config"]})


def measure_export(
    folder: Path, data: Dataset, config: SearchConfig, summary: Mapping[str, Any]
) -> dict[str, Any] | None:
    """NE of the exported model on the held-out rows, by metric; None where no model was exported.

    With ``training.held_out=frozen`` it is the NE that the search's test found for that seed. With ``progressive`` the
    test's models go on learning while they are scored, and this is what the exported one does without that.
    """
    if not (folder / "model.json").exists():
        return None
    scorer, held_out = load_model(folder), data.test()
    p = scorer.predict(held_out.sparse, held_out.dense).astype(np.float64)
    labels = np.asarray(held_out.labels, np.float64)
    ne: dict[str, float] = {}
    for q, metric in enumerate(scorer.metrics):
        targets, rows = targets_of(labels, metric)
        ne[metric] = normalized_entropy(p[rows, q], targets)
    return {"seed": summary["seeds"][0], "ne": ne, "held_out": config.training.held_out}


def save_trained(trained: Any, data: Dataset, folder: Path, description: Mapping[str, Any]) -> None:
    """A trained model with all that scoring raw rows needs."""
    save_scoring_files(data, folder)  # before the model, whose last file says that all is there
    save_model(
        folder,
        trained.predict,
        trained.params,
        trained.rows,
        num_fields=len(data.schema.fields),
        num_dense=len(data.schema.dense),
        metrics=trained.metrics,
        example=(data.test().sparse[:256], data.test().dense[:256]),
        description=description,
    )


@own_settings()
def run_training(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Trains one model with one or more seeds, scores the held-out rows, saves the first seed's model."""
    folder.mkdir(parents=True, exist_ok=True)
    data = build.dataset(config.data, LOG.info)
    setting = Setting(config.model, build.hparams(config.training))
    objective = build.listed_objective(config, data, [setting])
    configs = np.zeros((config.seeds, 1), np.int32)
    rows: list[dict[str, Any]] = []
    for seed, outcome in objective.evaluate(configs, range(config.seeds), config.fraction):
        LOG.info(
            "seed %d: %s, %.1f s (+ %.1f s compile), %s rows/s",
            seed,
            outcome.failed
            or " ".join(
                f"{m} NE {v:.5f}" for m, v in zip(objective.metrics, outcome.ne, strict=True)
            ),
            outcome.seconds,
            outcome.compile_seconds,
            f"{outcome.num_rows / max(outcome.seconds, 1e-9):,.0f}",
        )
        write_curve(folder / f"curve-{seed}.csv", objective.metrics, outcome.curve)
        rows.append({"seed": seed} | outcome._asdict() | {"curve": None})
    result: dict[str, Any] = {
        "metrics": objective.metrics,
        "runs": sorted(rows, key=lambda r: r["seed"]),
    }
    result |= {"test": [], "config": plain(config)} | provenance()
    alive = [r["seed"] for r in result["runs"] if not r["failed"]]
    if config.fraction == 1.0 and objective.test is not None and objective.test_labels is not None:
        for seed in alive:
            scores = held_out_scores(objective, objective.test(configs[0], seed))
            result["test"].append({"seed": seed} | scores)
            LOG.info("seed %d held-out: %s", seed, dumps(scores))
    write_atomically(folder / "result.json", dumps(result, indent=1))
    if (
        config.export
        and alive
        and objective.trained is not None
        and not (folder / "model").exists()
    ):
        save_trained(objective.trained(configs[0], alive[0]), data, folder / "model", plain(config))
    return result


@own_settings()
def run_tuning(config: TuneConfig) -> list[dict[str, Any]]:
    """Every point of the grid with all seeds, best first; the best one is scored on the held-out rows."""
    data = build.dataset(config.data, LOG.info)
    grid = flatten(config.grid)
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    variants = [with_values(config, point) for point in points]
    settings = [Setting(v.model, build.hparams(v.training)) for v in variants]
    rows: list[dict[str, Any]] = []
    judge = ""  # the first metric that validation can tell
    # Whatever is not an argument of a program makes another objective: batch size, windows, warm-up.
    key = lambda i: (variants[i].training.batch_size, variants[i].model.head)  # noqa: E731
    for _, members in itertools.groupby(sorted(range(len(points)), key=key), key=key):
        chosen = list(members)
        objective = build.listed_objective(variants[chosen[0]], data, settings, config.workers)
        judge = tuning_metric(objective)
        jobs = np.repeat(np.array(chosen, np.int32)[:, None], config.seeds, axis=0)
        seeds = list(range(config.seeds)) * len(chosen)
        found: dict[int, list[tuple[int, np.ndarray, str]]] = {i: [] for i in chosen}
        for j, outcome in objective.evaluate(jobs, seeds, 1.0):
            i = int(jobs[j, 0])
            assert objective.measurable is not None
            tails = [
                curve_label(c, 1.0, tail=config.tail, where=w)
                for c, w in zip(outcome.curve.T, objective.measurable.T, strict=True)
            ]
            found[i].append((seeds[j], np.array(tails), outcome.failed))
            if len(found[i]) == config.seeds:
                rows.append(tuning_row(points[i], objective.metrics, found[i]))
                LOG.info("%d of %d: %s", len(rows), len(points), dumps(rows[-1]))
    rows.sort(key=lambda row: (bool(row["failed"]), row[f"validation_ne_{judge}"]))
    best = {name: rows[0][name] for name in grid}
    variant = with_values(config, best)
    objective = build.listed_objective(
        variant, data, [Setting(variant.model, build.hparams(variant.training))]
    )
    assert objective.test is not None
    for seed in range(config.seeds):
        scores = held_out_scores(objective, objective.test(np.zeros(1, np.int32), seed))
        for metric, values in scores.items():
            for name, value in values.items():
                rows[0].setdefault(f"held_out_{name}_{metric}", []).append(value)
    LOG.info("best: %s", dumps(rows[0]))
    write_rows(
        Path(config.results) / f"{config.name}.csv",
        rows,
        {"config": shareable(config)} | provenance(),
    )
    return rows


def tuning_metric(objective: Objective) -> str:
    """The first metric that can be computed on the training rows.

    Raises:
        ValueError: there is none.
    """
    assert objective.measurable is not None
    known_metrics = np.atleast_1d(objective.measurable.any(axis=0))
    for metric, known in zip(objective.metrics, known_metrics, strict=True):
        if known:
            return metric
    raise ValueError(
        f"{objective.name}: no window of the training rows has both a positive and a negative of "
        f"{', '.join(objective.metrics)}, so no grid point can be told from another; use another log, or fewer and "
        f"longer windows (training.num_windows)"
    )


def tuning_row(
    point: Mapping[str, Any], metrics: tuple[str, ...], runs: list[tuple[int, np.ndarray, str]]
) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the validation NE."""
    values = np.array([tails for _, tails, _ in sorted(runs, key=lambda r: r[0])])
    row: dict[str, Any] = dict(point)
    for q, metric in enumerate(metrics):
        row[f"validation_ne_{metric}"] = float(values[:, q].mean())
        row[f"seed_sd_{metric}"] = float(values[:, q].std(ddof=1)) if len(values) > 1 else 0.0
    row["failed"] = "; ".join(sorted({reason for *_, reason in runs if reason}))
    return row


def shareable(config: TuneConfig | TrainConfig) -> dict[str, Any]:
    """The settings without where this machine keeps its files."""
    usual = type(config)()
    places = {name: place and Path(place).name for name, place in locations(config.data).items()}
    places["folder"] = usual.data.folder
    data = replace(config.data, **places)
    shown = plain(replace(config, data=data, runs=usual.runs))
    return shown | ({"results": usual.results} if isinstance(usual, TuneConfig) else {})


def write_rows(path: Path, rows: list[dict[str, Any]], made_by: Mapping[str, Any]) -> None:
    """A tidy CSV, and beside it (``.json``) what made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    write_atomically(path.with_suffix(".json"), dumps(made_by, indent=1))


def cell(value: Any) -> Any:
    """A CSV cell: empty for what is unknown, JSON for a list."""
    if isinstance(value, list):
        return dumps(value)
    return "" if isinstance(value, float) and math.isnan(value) else value


def held_out_scores(objective: Objective, predictions: np.ndarray) -> dict[str, dict[str, float]]:
    """NE, log loss and AUC of each metric on the held-out rows."""
    assert objective.test_labels is not None
    scores = {}
    for q, metric in enumerate(objective.metrics):
        targets, rows = targets_of(objective.test_labels, metric)
        p = predictions[rows, q]
        scores[metric] = {
            "ne": normalized_entropy(p, targets),
            "log_loss": log_loss(p, targets),
            "auc": auc(p, targets),
        }
    return scores


def write_curve(path: Path, metrics: tuple[str, ...], curve: np.ndarray) -> None:
    """Window NE as CSV, one line a window."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["window", *metrics])
        writer.writerows([i, *map(repr, map(float, values))] for i, values in enumerate(curve))


def set_aside(folder: Path) -> None:
    """Moves an existing run out of the way; nothing is deleted."""
    if (folder / "trials.db").exists():
        target = folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        LOG.info("fresh=true: the run that was at %s is now at %s", folder, target)
        folder.rename(target)


def provenance() -> dict[str, Any]:
    """Versions, device and revision behind the numbers."""
    return {
        "versions": {"python": platform.python_version()}
        | {p: package_version(p) for p in PACKAGES},
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "git_revision": code_revision(),
        "finished_at": time.time(),
    }


def package_version(name: str) -> str:
    """The installed version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
