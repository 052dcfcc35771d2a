"""Parts from outside: installed packages that register searchers, losses, modules, data sources or fidelity rules.

A package names a module under the entry point group ``autorank.plugins``; importing the module registers its parts.
Installed code is trusted; a config file can choose among registered parts and never names code.
"""

import functools
from importlib.metadata import entry_points

GROUP = "autorank.plugins"


@functools.cache
def load_plugins() -> tuple[str, ...]:
    """Imports the plug-in modules of all installed packages, once in a process; gives their names.

    Raises:
        ValueError: one cannot be imported, with the package's name.
    """
    names = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            raise ValueError(
                f"the plug-in {point.name} of the package {package} cannot be imported: {error}"
            ) from error
        names.append(point.name)
    return tuple(names)
