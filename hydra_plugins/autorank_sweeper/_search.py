"""The search itself: space, ledger, searcher, launcher. The leading underscore keeps Hydra's scan out."""

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from autorank.base.result import described
from autorank.ledger.ledger import (
    Ledger,
    LedgerCorrupt,
    LedgerFull,
    LedgerMismatch,
    RunInUse,
    Trial,
)
from autorank.sweep.sweep import Sweep, SweepPlan, SweepStopped, replay
from hydra_plugins.autorank_sweeper import _job, _signals, _space, _stop
from hydra_plugins.autorank_sweeper._drive import Driver
from hydra_plugins.autorank_sweeper._launchers import can_overlap, in_process, is_pool
from hydra_plugins.autorank_sweeper._results import save_results
from hydra_plugins.autorank_sweeper._space import Swept

LOG = logging.getLogger(__name__)
STOPS = (LedgerCorrupt, LedgerFull, LedgerMismatch, RunInUse, SweepStopped)
COMPOSED = 16  # configurations tried beside the baseline before a key or a choice is called wrong
LEAST_ASK = 8  # proposals of a searcher that gives them roles; fewer are taken in turn


def search(
    sweeper: Any, settings: Mapping[str, Any], overrides: Mapping[str, Override], folder: Path
) -> list[list[JobReturn]]:
    """Runs or resumes the search in ``folder``.

    Raises:
        HydraException: see `_impl.run`.
    """
    loader, config, launcher = sweeper.hydra_context.config_loader, sweeper.config, sweeper.launcher
    try:
        swept, first_config, without = space_of(settings, overrides, loader, config)
    except ValueError as error:
        raise CompactHydraException(str(error)) from error
    path = Path(settings["ledger"] or folder / "trials.db")
    if settings["replay"] and not path.exists():
        raise CompactHydraException(
            f"replay: there is no ledger at {path}; give the sweep's own hydra.sweep.dir"
        )
    if hasattr(launcher, "start") and not settings["replay"]:
        launcher.start()  # here: before JAX has threads, which do not survive a fork
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

    def composes(job: list[str]) -> None:
        loader.load_sweep_config(config, list(job))

    if without:
        LOG.info(
            "no baseline inside the space for %s: the first trial takes the first choice (name others in "
            "hydra.sweeper.baseline)",
            ", ".join(without),
        )
    try:
        with (
            Ledger.open(path, identity(settings, swept, first_config)) as ledger,
            _signals.stops(),
        ):
            return _search(settings, swept, ledger, launcher, sweeper.job, composes, folder)
    except STOPS as error:
        # Hydra prints compact exceptions without a stack: these say what to do.
        raise CompactHydraException(f"{type(error).__name__}: {error}") from error


def _search(
    settings: Mapping[str, Any],
    swept: Swept,
    ledger: Ledger,
    launcher: Any,
    job: _job.Job,
    composes: Any,
    folder: Path,
) -> list[list[JobReturn]]:
    space = swept.space
    assert space is not None
    trials, batch_size = settings["trials"], settings["batch_size"]
    cap = settings["max_batch_size"]
    exhaustive = space.cardinality() <= trials
    overlap = settings["asynchronous"]
    if overlap is None:
        overlap = can_overlap(launcher)
    if overlap and in_process(launcher):
        raise CompactHydraException(
            "hydra.sweeper.asynchronous=true needs a launcher that runs jobs in other processes "
            "(hydra/launcher=joblib, submitit_local, submitit_slurm, autorank_ray)"
        )
    from autorank.searchers import named

    name = settings["searcher"]
    try:
        traits = named.find_searcher(name).traits
    except ValueError as error:
        raise CompactHydraException(f"hydra.sweeper.{error}") from error

    def make(size: int, capacity: int) -> Any:
        return named.named_searcher(
            name,
            space,
            capacity=capacity,
            batch_size=size,
            initial=settings["initial"],
            alpha=settings["alpha"],
        )

    roles = traits["has_roles"]
    plan = SweepPlan(
        trials,
        settings["seed"],
        settings["direction"] == "maximize",
        settings["max_failure_rate"],
        0.0 if traits["weighs_cost"] else settings["alpha"],
        settings["cost_cap"],
        # In flight one is asked for at a time; a round's are made together.
        batch_size=max(LEAST_ASK, batch_size) if roles else 1 if overlap else batch_size,
        roles=roles,
        in_order=exhaustive,
    )
    if settings["replay"]:
        return _replay(space, make, ledger, plan)
    ledger.put("decisions", [d._asdict() for d in space.decisions])
    ledger.put("baseline", [int(v) for v in space.baseline])
    ledger.put("plan", plan._asdict())
    sweep = Sweep(space, make, ledger, plan)
    known = len(sweep.trials())
    LOG.info(
        "%s: %d decisions, %s configurations, %s; %s",
        ledger.path,
        space.num_decisions,
        f"{space.cardinality():,}"
        if space.cardinality() < 10**9
        else f"{float(space.cardinality()):.2e}",
        "all of them are run"
        if exhaustive
        else f"{trials} trials by searcher={settings['searcher']}",
        f"resuming: {known} trials are there"
        if known
        else f"to resume a stopped sweep add hydra.sweep.dir={folder}",
    )

    def report(trial: Trial) -> None:
        best = sweep.best()
        ended = sum(t.status != "proposed" for t in sweep.trials())
        LOG.info(
            "trial %d %s%s; %d of %d, best %s",
            trial.id - 1,
            "failed: " + trial.reason if trial.status == "failed" else f"gave {trial.quality:g}",
            "" if trial.cost is None else f" at cost {trial.cost:g}",
            ended,
            sweep._total(),
            "none yet" if best is None else f"{best.quality:g} (trial {best.id - 1})",
        )

    token = ledger.get("token")
    if token is None:
        ledger.put("token", token := uuid.uuid4().hex)
    pool = is_pool(launcher)
    # One for each ledger: two sweeps may share a folder.
    results = folder / _job.FOLDER / token[:12]
    try:
        job.watch(results, token, uuid.uuid4().hex, pool)
    except OSError as error:
        raise CompactHydraException(
            f"{results} cannot be written to ({error}); make room and start the same command again"
        ) from error
    driver = Driver(
        sweep,
        launcher,
        lambda trial: swept.overrides(trial.config),
        composes,
        job,
        attempts=settings["attempts"],
        report=report,
    )
    jobs = _stop.Jobs(launcher)
    try:
        sweep.check_failures()
        if overlap:
            driver.in_flight(batch_size, shared_fate=pool)
        else:
            driver.rounds(min(batch_size, cap or batch_size) if not exhaustive else trials, cap)
    except BaseException as error:
        jobs.cancel()
        if not isinstance(error, SweepStopped):
            LOG.warning(
                "stopped; the same command with hydra.sweep.dir=%s continues it: nothing that ended is lost",
                folder,
            )
        raise
    finally:
        save_results(folder, sweep, swept)
    return driver.returns


def _replay(space: Any, make: Any, ledger: Ledger, plan: SweepPlan) -> list[list[JobReturn]]:
    """Runs nothing: proposes everything again and compares.

    Raises:
        CompactHydraException: a proposal that would be another one now.
    """
    different = replay(space, make, ledger, plan)
    if different:
        raise CompactHydraException(
            f"replay: {len(different)} proposals of {ledger.path} are not what they would be now, with these versions "
            f"of autorank and jax on this machine; the first: {different[0]}"
        )
    LOG.info("replay: all %d proposals of %s are the same", len(ledger.trials()), ledger.path)
    return []


def grid_size(searcher: str) -> int:
    """Points of an interval where the user names no number."""
    from autorank.searchers.named import find_searcher

    return find_searcher(searcher).traits["grid_size"]


def space_of(
    settings: Mapping[str, Any], overrides: Mapping[str, Any], loader: Any, config: DictConfig
) -> tuple[Swept, DictConfig, list[str]]:
    """The space around the app's own values, the composed config of the first trial, keys without a baseline."""
    conditions = settings["conditions"] or {}
    size = settings["grid_size"] or grid_size(settings["searcher"])
    given = _space.given_values(settings["baseline"])
    sweeps = {_space.name_of(k) for k, o in overrides.items() if o.is_sweep_override()}
    for key in given:
        if key not in sweeps:
            raise ValueError(
                f"hydra.sweeper.baseline: {key} is not swept; give it as an ordinary override ({key}=...)"
            )
    start, _ = _space.build(overrides, {}, conditions, size)
    fixed = list(start.fixed.values())
    try:
        own = loader.load_sweep_config(config, fixed)
    except HydraException:  # a mandatory group is swept over
        first = None if start.space is None else start.space.baseline
        own = loader.load_sweep_config(config, start.overrides(first))
    values = _space.composed_values(overrides, own, own.hydra.runtime.choices)
    swept, without = _space.build(overrides, values | given, conditions, size)
    for key in without:
        if _space.name_of(key) in given:
            raise ValueError(
                f"hydra.sweeper.baseline: {_space.name_of(key)}={given[_space.name_of(key)]!r} is not in its sweep"
            )
    some_compose(swept, loader, config)
    return swept, own, without


def some_compose(swept: Swept, loader: Any, config: DictConfig) -> None:
    """Before anything is run or written: a key that the app does not have is a typing error, not a failed trial.

    A choice that the app refuses only beside others is one; so the baseline need not be among those that compose.

    Raises:
        HydraException: none of the configurations tried makes a config; why the first one does not.
    """
    if swept.space is None:
        return
    draw = np.random.default_rng(0)
    sizes = [len(d.choices) for d in swept.space.decisions]
    configs = [swept.space.baseline, *(draw.integers(0, sizes) for _ in range(COMPOSED))]
    first: Exception | None = None
    for chosen in configs:
        try:
            loader.load_sweep_config(config, swept.overrides(chosen))
            return
        except Exception as error:
            first = first or error
    assert first is not None
    if isinstance(first, HydraException):
        raise first
    raise CompactHydraException(f"no trial's config can be composed: {described(first)}") from first


def identity(settings: Mapping[str, Any], swept: Swept, config: DictConfig) -> dict[str, str]:
    """What makes a ledger this sweep's own: any difference is refused on resume."""
    assert swept.space is not None
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    content = json.dumps(OmegaConf.to_container(config, resolve=False), sort_keys=True, default=str)
    names = ("searcher", "seed", "direction", "initial", "alpha", "cost_cap")
    return {
        "space": swept.space.fingerprint(),
        "fixed overrides": " ".join(swept.fixed.values()),
        "own config of the app": hashlib.sha256(content.encode()).hexdigest(),
        "search settings": json.dumps({name: settings[name] for name in names}),
        "files": json.dumps({name: digest(name) for name in settings["files"]}),
    }


def digest(name: str) -> str:
    """sha256 of a file named in ``hydra.sweeper.files``."""
    try:
        with Path(name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CompactHydraException(f"hydra.sweeper.files: cannot read {name} ({error})") from error
