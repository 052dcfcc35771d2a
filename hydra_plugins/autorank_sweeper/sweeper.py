"""The sweeper class that Hydra finds. Every Hydra program imports this module, so it imports nothing heavy."""

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.autorank_sweeper import config as _config  # noqa: F401  registers the schemas


class AutorankSweeper(Sweeper):
    """`hydra/sweeper=autorank`: hands over to `_impl.run` once a sweep begins."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.job: Any = None  # the task function that launchers run

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Stores what a sweep needs and wraps the job: time limit inside, lock and result file outside."""
        from hydra.core.plugins import Plugins

        from hydra_plugins.autorank_sweeper._job import Job
        from hydra_plugins.autorank_sweeper._time_limit import limited

        self.hydra_context, self.config = hydra_context, config
        self.job = Job(limited(task_function, self.settings.get("time_limit")))
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=self.job, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs or resumes the sweep.

        Returns:
            The jobs' returns, one list for each launch.

        Raises:
            HydraException: see `_impl.run`.
        """
        from hydra_plugins.autorank_sweeper._impl import run

        return run(self, arguments)
