"""What is known of launchers, by the names of their classes (Hydra executes plugin modules anew)."""

from hydra.plugins.launcher import Launcher


def launcher_name(launcher: Launcher) -> str:
    """The class's name."""
    return type(launcher).__name__


def in_process(launcher: Launcher) -> bool:
    """Whether jobs run in the driver's own process."""
    one = launcher_name(launcher) == "JoblibLauncher" and launcher.joblib.get("n_jobs") == 1  # type: ignore[attr-defined]
    return launcher_name(launcher) == "BasicLauncher" or one


def can_overlap(launcher: Launcher) -> bool:
    """Whether several launches may run side by side; asked of launchers that were tried."""
    known = (
        "JoblibLauncher",
        "AutorankRayLauncher",
        "LocalLauncher",
        "SlurmLauncher",
    )
    return launcher_name(launcher) in known and not in_process(launcher)


def is_pool(launcher: Launcher) -> bool:
    """Whether its workers are a pool of this process: it breaks as a whole, and its workers wait for more."""
    return launcher_name(launcher) == "JoblibLauncher" and not in_process(launcher)
