"""The class that Hydra finds. Every Hydra program imports this module: nothing heavy here."""

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.autorank_sweeper import config as _config  # noqa: F401  registers the schemas


class AutorankSweeper(Sweeper):
    """Thin over `autorank.sweep.sweep`; see ``_impl.py``."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.job: Any = None  # the task function as launchers get it

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keeps what a sweep needs; the job gets its time limit here, inside whatever launches it."""
        from hydra.core.plugins import Plugins

        from hydra_plugins.autorank_sweeper._job import Job, limited

        self.hydra_context, self.config = hydra_context, config
        self.job = Job(limited(task_function, self.settings.get("time_limit")))
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=self.job, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs or resumes the sweep; gives the jobs' returns in lists, as they were launched."""
        from hydra_plugins.autorank_sweeper._impl import run

        return run(self, arguments)
