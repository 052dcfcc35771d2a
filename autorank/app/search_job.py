"""A search from settings to report."""

import functools
import itertools
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from autorank.app import build
from autorank.app.costs import known_cost
from autorank.app.earlier_ledgers import carried_over
from autorank.app.exported import export_winner, measure_export
from autorank.app.identity import identity
from autorank.app.idle import idle_settings
from autorank.app.provenance import provenance
from autorank.app.run_labels import labels_of, launch
from autorank.app.settings import SearchConfig
from autorank.app.tracking import start_tracking
from autorank.base.jax_settings import own_settings
from autorank.base.measurable import of_metric
from autorank.base.plugins import load_plugins
from autorank.base.records import locations, plain
from autorank.base.searched import IN_PERCENT
from autorank.data.format.batches import Dataset
from autorank.ledger.errors import LedgerMismatch
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
from autorank.space.space import Space

LOG = logging.getLogger("autorank")


@own_settings()
def run_search(config: SearchConfig, folder: Path) -> dict[str, Any]:
    """Runs or resumes the search of a run folder and leaves ledger, summary, report and the winner in it.

    Raises:
        LedgerMismatch, RunInUse, SearchStopped: with what to do about it.
    """
    for sentence in idle_settings(config):
        LOG.warning("%s", sentence)
    if config.fresh:
        set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data, space, objective = made_from(config)
    searcher = build.searcher(config, space, known_cost(config, data, space))
    LOG.info("%s", describe(space, objective, data))
    warn_of_windows(objective, build.budget(config).metric)
    with open_ledger(config, folder, identity(config, space, data)) as ledger:
        refuse_finished_by_earlier_version(ledger, config.search.seed)
        ledger.put("decisions", [d._asdict() for d in space.decisions])
        ledger.put("baseline", [int(v) for v in space.baseline])
        write_atomically(folder / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
        known = len(ledger.trials())
        if known:
            LOG.info("resuming %s: its ledger holds %d rows", folder, known)
        labels = labels_of(config, folder, data.fingerprint(), launch())
        tracker = start_tracking(config.tracking, folder, ledger, plain(config), labels)
        in_percent = build.budget(config).measure in IN_PERCENT
        progress = Progress(unit="%" if in_percent else " points")

        def notify(event: Event) -> None:
            progress(event)
            tracker.sync()

        try:
            summary = run(
                objective,
                space,
                searcher,
                ledger,
                build.budget(config),
                build.fidelity_rule(config.fidelity, config.search.seed),
                build.predictor(config, space),
                notify,
            )
        finally:
            progress.close()
        summary = leave_results(config, folder, data, objective, summary)
        report = write_report(folder)
        tracker.finish(folder, summary)
    print(console_table(summary))
    print(f"report: {report}")
    return summary


def made_from(config: SearchConfig) -> tuple[Dataset, Space, Objective]:
    """The log, the space, and what evaluates a configuration: on this machine or on a cluster."""
    workers = build.workers(config.backend)
    if workers is not None:
        cluster.connect(workers)
    # CUDA takes seconds to start, and reading the log does not need it.
    threading.Thread(target=jax.devices, name="start devices", daemon=True).start()
    data = build.dataset(config.data, LOG.info)
    space = build.space(config)
    objective = build.objective(config, data, space)
    if workers is not None:
        make = functools.partial(worker_objective, located(config))
        objective = cluster.distributed(objective, make, workers)
    return data, space, objective


def open_ledger(config: SearchConfig, folder: Path, own: Mapping[str, str]) -> Ledger:
    """The ledger of a run folder, new or of the same search.

    Raises:
        LedgerMismatch: it is another search's; with what to write on the command line.
    """
    known_as = functools.partial(carried_over, config=config, folder=folder)
    try:
        return Ledger.open(folder / "trials.db", own, known_as)
    except LedgerMismatch as error:
        raise LedgerMismatch(
            f"{error}: write name={free_name(config)} to keep both, or fresh=true, which moves the old one aside"
        ) from error


def free_name(config: SearchConfig) -> str:
    """A name for another run, that tells the searcher and that neither a run nor a sweep has."""
    runs, name = Path(config.runs), f"{config.name}-{config.searcher.name}"
    for number in itertools.count(2):
        if not (runs / name).exists() and not (runs / f"{name}-sweep").exists():
            break
        name = f"{config.name}-{config.searcher.name}-{number}"
    return name


def leave_results(
    config: SearchConfig,
    folder: Path,
    data: Dataset,
    objective: Objective,
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Writes the summary, exports the winner, and adds to the summary what the exported model scores."""
    summary |= {"bayes_ne": data.schema.notes.get("bayes_ne")} | provenance()
    write_atomically(folder / "summary.json", dumps(summary, indent=1))
    export_winner(objective, summary, data, folder / "model")
    summary |= {"exported": measure_export(folder / "model", data, config, summary)}
    write_atomically(folder / "summary.json", dumps(summary, indent=1))
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
    # One program: on an accelerator each operation outside of one is compiled by itself.
    sample = np.asarray(jax.jit(space.sample, static_argnums=1)(jax.random.key(0), 256))
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


def set_aside(folder: Path) -> None:
    """Moves an existing run out of the way; nothing is deleted."""
    if (folder / "trials.db").exists():
        target = folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        LOG.info("fresh=true: the run that was at %s is now at %s", folder, target)
        folder.rename(target)
