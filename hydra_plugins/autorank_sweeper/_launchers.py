"""What the sweeper knows of launchers, by the names of their classes (Hydra imports plugin modules a second time)."""

from hydra.plugins.launcher import Launcher

# Launchers whose ``launch`` was tried from several threads at once.
CAN_OVERLAP = ("JoblibLauncher", "AutorankRayLauncher", "LocalLauncher", "SlurmLauncher")


def launcher_name(launcher: Launcher) -> str:
    """The name of the launcher's class."""
    return type(launcher).__name__


def in_process(launcher: Launcher) -> bool:
    """Whether jobs run in the driver's own process."""
    one = launcher_name(launcher) == "JoblibLauncher" and launcher.joblib.get("n_jobs") == 1  # type: ignore[attr-defined]
    return launcher_name(launcher) == "BasicLauncher" or one


def can_overlap(launcher: Launcher) -> bool:
    """Whether several launches may run side by side."""
    return launcher_name(launcher) in CAN_OVERLAP and not in_process(launcher)


def is_pool(launcher: Launcher) -> bool:
    """Whether the workers are a pool of the driver's process: it breaks as a whole, and idle workers wait for jobs."""
    return launcher_name(launcher) == "JoblibLauncher" and not in_process(launcher)
