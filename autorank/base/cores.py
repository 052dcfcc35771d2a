"""How many cores there are to work with."""

import os


def available_cores() -> int:
    """Cores that this process may use: a container, a job or ``taskset`` may leave it fewer than the machine has.

    Examples:
        >>> 1 <= available_cores() <= (os.cpu_count() or 1)
        True
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
