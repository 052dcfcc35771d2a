"""`hydra/launcher=autorank_ray`: each job is a Ray task. Ray is imported only when a sweep starts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from hydra_plugins.autorank_sweeper import config as _config  # noqa: F401  registers the schemas

LOG = logging.getLogger(__name__)


def run_on_worker(
    context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    state: Any,
    overrides: list[str],
    number: int,
) -> JobReturn:
    """Runs one job inside a Ray worker."""
    setup_globals()
    Singleton.set_state(state)
    job = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = f"{job.hydra.job.name}_{number}"
        job.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


class AutorankRayLauncher(Launcher):
    """Starts a local Ray cluster or joins an existing one, and runs jobs there.

    After `start`, `launch` may be called from any thread.
    """

    def __init__(
        self, address: str | None, num_workers: int | None, num_cpus: float, num_gpus: float
    ) -> None:
        self.address, self.num_workers = address, num_workers
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None
        self._running: set[Any] = set()  # object references of the jobs
        self._started = False  # whether this launcher initialised Ray

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Stores what a launch needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def start(self) -> None:
        """Starts or joins the cluster, if that has not happened yet.

        Call it from the main thread: Ray's processes end with the thread that started them.

        Raises:
            ImportError: Ray is not installed.
            CompactHydraException: no cluster answers at the address.
        """
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "hydra/launcher=autorank_ray needs Ray: pip install 'autorank[ray]'"
            ) from error
        if ray.is_initialized():
            return
        LOG.info("starting or joining a Ray cluster (address=%s)", self.address)
        try:
            if self.address:
                ray.init(address=self.address)
            else:
                # Without "local", Ray joins the cluster that was last started on this machine.
                ray.init(address="local", num_cpus=self.num_workers, include_dashboard=False)
        except ConnectionError as error:
            raise CompactHydraException(
                f"hydra.launcher.address={self.address}: no Ray cluster answers there ({error}); start one "
                f"with `ray start --head`, or write hydra.launcher.address=null for a local one"
            ) from error
        self._started = True

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs the jobs and waits for them all.

        Raises:
            ray.exceptions.RayError: a worker died. Nothing is retried here.
        """
        self.start()
        import ray  # pyright: ignore[reportMissingImports]

        assert self.config is not None and self.task_function is not None
        assert self.hydra_context is not None
        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        run = ray.remote(
            num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=0, max_calls=0
        )(run_on_worker)
        state = Singleton.get_state()
        jobs = []
        for i, overrides in enumerate(job_overrides):
            number = initial_job_idx + i
            LOG.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
            jobs.append(
                run.remote(
                    self.hydra_context,
                    self.config,
                    self.task_function,
                    state,
                    list(overrides),
                    number,
                )
            )
        self._running.update(jobs)
        try:
            return [ray.get(job) for job in jobs]
        finally:
            self._running.difference_update(jobs)

    def cancel(self) -> None:
        """Ends the jobs that still run or wait; on an existing cluster they would go on without the driver."""
        import ray  # pyright: ignore[reportMissingImports]

        left = list(self._running)
        for job in left:
            ray.cancel(job, force=True)
        if left:
            LOG.warning("cancelled %d Ray jobs that had not ended", len(left))
        if self._started:
            ray.shutdown()  # at exit it would hide that Ctrl-C ended the process
