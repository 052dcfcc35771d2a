"""Which searcher finds more with the same number of trials; `--help` explains itself."""

import logging
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from autorank.app.composition import overridden
from autorank.app.idle import changed_fields
from autorank.app.programs import CONFIGS, plain_errors, register, settings
from autorank.app.settings import BenchSearchConfig
from autorank.app.variants import variant_names
from autorank.benchmarks.catalogue import get, matching
from experiments.comparison import run_table, runs
from experiments.comparison.noise import RECORDED
from experiments.comparison.peers.catalogue import SLOW_TASKS
from experiments.comparison.side_by_side import grouped, run_together
from experiments.comparison.worker_pool import in_processes

LOG = logging.getLogger("autorank")
register()


def work(jobs: Sequence[runs.Job], folder: Path, until: float) -> int:
    """Jobs in a worker process, one or side by side; returns the number of new trials."""
    if len(jobs) == 1:
        return runs.run(jobs[0], folder, until)
    return run_together(jobs, folder, until)


def jobs_of(
    cfg: BenchSearchConfig, searchers: Sequence[str], tasks: Sequence[str]
) -> list[runs.Job]:
    """The runs that are asked for; recorded noise is left out where a task has no recorded seeds.

    Raises:
        ValueError: nothing but recorded noise is asked for, and no task has recorded seeds.
    """
    noises = cfg.noise if isinstance(cfg.noise, list | tuple) else [cfg.noise]
    noises = [noise if noise == RECORDED else float(noise) for noise in noises]
    without = set()
    if RECORDED in noises:
        without = {task for task in tasks if get(task, runs.DATA).seeds is None}
    if len(without) == len(tasks) and noises == [RECORDED]:
        raise ValueError(
            f"noise=recorded: none of tasks={cfg.tasks} has recorded seeds; write tasks='dhen/*', or a number"
        )
    return [
        runs.Job(searcher, task, cfg.batch, noise, seed, cfg.trials)
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.seeds)
        for searcher in searchers
        for task in tasks
        for noise in noises
        if noise != RECORDED or task not in without
    ]


def carry_out(jobs: Sequence[runs.Job], folder: Path, cfg: BenchSearchConfig) -> int:
    """Runs jobs in processes; returns the number of failed runs."""
    groups = [[job] for job in jobs]
    if cfg.lanes > 1:
        together, alone = grouped(jobs, folder, cfg.lanes)
        groups = [*together, *([job] for job in alone)]
    return in_processes(work, groups, folder, cfg.workers, cfg.seconds)


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="bench_search")
@plain_errors
def main(config: DictConfig) -> int:
    """Runs what is missing, then grows the table; returns the number of failed runs."""
    cfg = settings(config, BenchSearchConfig)
    folder = Path(cfg.runs) / "bench_search"
    # A wrong name or setting ends it before the first run.
    written = (key.partition(".")[2].partition(".")[0] for key in overridden("predictor"))
    chosen = {*changed_fields(cfg.predictor), *written} - {""}
    predictor = {name: getattr(cfg.predictor, name) for name in sorted(chosen)}
    searchers = variant_names(cfg.searchers, cfg.batch, cfg.searcher, predictor, runs.PEERS)
    tasks = SLOW_TASKS if cfg.tasks == "slow" else matching(cfg.tasks)
    jobs = jobs_of(cfg, searchers, tasks)
    answered = [job for job in jobs if not runs.is_unanswered(job)]
    if len(answered) < len(jobs):
        LOG.info(
            "left out: runs of peers on recorded tables (%d); a table answers with another configuration than was "
            "proposed, of which not every peer can be told",
            len(jobs) - len(answered),
        )
    jobs = answered
    if cfg.table and not cfg.again:
        known = run_table.recorded(Path(cfg.table))
        missing = [
            j for j in jobs if not run_table.has(known.get(run_table.Run(*j[:5]), ()), j.trials)
        ]
        if len(missing) < len(jobs):
            LOG.info(
                "%d of %d runs stand in %s and are not run: again=true, or another table, runs them",
                *(len(jobs) - len(missing), len(jobs), cfg.table),
            )
        jobs = missing
    failed = carry_out(jobs, folder, cfg)
    if cfg.table:
        rows = run_table.write_table(folder, Path(cfg.table))
        LOG.info("wrote %s: %d rows; %d runs failed", cfg.table, rows, failed)
    return failed


if __name__ == "__main__":
    main()
