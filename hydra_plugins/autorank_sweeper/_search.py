"""A search from its ledger's opening to its results."""

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException

from autorank.ledger.errors import LedgerCorrupt, LedgerFull, LedgerMismatch, RunInUse
from autorank.ledger.ledger import Ledger
from autorank.space.space import Space
from autorank.sweep.named import NamedSearcher
from autorank.sweep.replay import replay
from autorank.sweep.rules import SweepRules, SweepStopped
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper import _plan, _signals
from hydra_plugins.autorank_sweeper._app import App
from hydra_plugins.autorank_sweeper._attempts import Attempts
from hydra_plugins.autorank_sweeper._baseline import Start, space_around_baseline, with_starts
from hydra_plugins.autorank_sweeper._cancel import StartedJobs
from hydra_plugins.autorank_sweeper._identity import identity
from hydra_plugins.autorank_sweeper._in_flight import InFlight
from hydra_plugins.autorank_sweeper._job import Job
from hydra_plugins.autorank_sweeper._kept import FOLDER
from hydra_plugins.autorank_sweeper._launchers import in_process, is_pool
from hydra_plugins.autorank_sweeper._outcomes import Outcomes
from hydra_plugins.autorank_sweeper._progress import Progress, log_start
from hydra_plugins.autorank_sweeper._results import save_results
from hydra_plugins.autorank_sweeper._rounds import Rounds
from hydra_plugins.autorank_sweeper._waiting import Waiting

LOG = logging.getLogger(__name__)
# Hydra prints compact exceptions without a stack: the messages of these say what to do.
STOPS = (LedgerCorrupt, LedgerFull, LedgerMismatch, RunInUse, SweepStopped)


def search(
    sweeper: Any,
    app: App,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Override],
    starts: Mapping[str, Any],
    folder: Path,
) -> list[list[JobReturn]]:
    """Runs or resumes the search in ``folder``; ``starts`` are the values at which forms ask it to start.

    Raises:
        HydraException: see `_impl.run`.
    """
    try:
        baseline = with_starts(settings["baseline"], starts, overrides)
        start = space_around_baseline(
            overrides, app, baseline, settings["conditions"] or {}, _plan.grid_size(settings)
        )
    except ValueError as error:
        raise CompactHydraException(str(error)) from error
    path = Path(settings["ledger"] or folder / "trials.db")
    if settings["replay"] and not path.exists():
        raise CompactHydraException(
            f"replay: there is no ledger at {path}; give the sweep's own hydra.sweep.dir"
        )
    if hasattr(sweeper.launcher, "start") and not settings["replay"]:
        sweeper.launcher.start()  # before JAX has threads, which do not survive a fork
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    if start.without:
        LOG.info(
            "no baseline inside the space for %s: the first trial takes the first choice (name others in "
            "hydra.sweeper.baseline)",
            ", ".join(start.without),
        )
    try:
        with (
            Ledger.open(path, identity(settings, start.swept, start.config)) as ledger,
            _signals.stops(),
        ):
            return _run(sweeper, app, settings, start, ledger, folder)
    except STOPS as error:
        raise CompactHydraException(f"{type(error).__name__}: {error}") from error


def _run(
    sweeper: Any,
    app: App,
    settings: Mapping[str, Any],
    start: Start,
    ledger: Ledger,
    folder: Path,
) -> list[list[JobReturn]]:
    space, launcher = start.swept.space, sweeper.launcher
    assert space is not None
    overlap = _plan.in_flight(settings, launcher)
    searcher = _plan.searcher_of(settings, space)
    plan = _plan.sweep_plan(settings, searcher, overlap)
    if settings["replay"]:
        _replay(space, searcher, ledger, plan)
        return []
    ledger.put("decisions", [d._asdict() for d in space.decisions])
    ledger.put("baseline", [int(v) for v in space.baseline])
    ledger.put("plan", plan._asdict())
    sweep = Sweep(space, searcher, ledger, plan)
    log_start(sweep, settings["searcher"], folder)
    _watch(sweeper.job, ledger, folder, is_pool(launcher))
    attempts = Attempts(ledger, settings["attempts"], in_process(launcher))
    outcomes = Outcomes(sweep, start.swept, sweeper.job, attempts, Progress(sweep))
    ahead = not in_process(launcher)
    waiting = Waiting(sweep, start.swept, app, attempts, outcomes, ahead=ahead)
    if overlap:
        size = settings["batch_size"]
        driver = InFlight(sweep, launcher, waiting, attempts, outcomes, size=size)
    else:
        size, cap = _plan.round_size(settings, plan), settings["max_batch_size"]
        driver = Rounds(sweep, launcher, waiting, attempts, outcomes, size=size, most=cap)
    jobs = StartedJobs(launcher)
    try:
        sweep.check_failures()
        driver.run()
    except BaseException as error:
        jobs.cancel()
        if not isinstance(error, SweepStopped):
            LOG.warning(
                "stopped; the same command with hydra.sweep.dir=%s continues it: nothing that ended is lost",
                folder,
            )
        raise
    finally:
        save_results(folder, sweep, start.swept)
    return driver.returns


def _watch(job: Job, ledger: Ledger, folder: Path, pool: bool) -> None:
    """Tells the job where its results go.

    Raises:
        CompactHydraException: the folder cannot be written to.
    """
    token = ledger.get("token")
    if token is None:
        ledger.put("token", token := uuid.uuid4().hex)
    # One folder for each ledger: two sweeps may share theirs.
    results = folder / FOLDER / token[:12]
    try:
        job.watch(results, token, uuid.uuid4().hex, pool)
    except OSError as error:
        raise CompactHydraException(
            f"{results} cannot be written to ({error}); make room and start the same command again"
        ) from error


def _replay(space: Space, searcher: NamedSearcher, ledger: Ledger, plan: SweepRules) -> None:
    """Runs nothing: makes every proposal again and compares.

    Raises:
        CompactHydraException: a proposal differs from the recorded one.
    """
    different = replay(space, searcher, ledger, plan)
    if different:
        raise CompactHydraException(
            f"replay: {len(different)} proposals of {ledger.path} are different with these versions of autorank and "
            f"jax on this machine; the first: {different[0]}"
        )
    LOG.info("replay: all %d proposals of %s are the same", len(ledger.trials()), ledger.path)
