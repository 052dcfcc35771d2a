"""What a sweep of searches or trainings ends with: the comparison of its runs."""

import atexit
import shlex
from typing import Any

from hydra.experimental.callback import Callback


class AfterSweep(Callback):
    """Hydra's callback of ``experiments.search`` and ``.train``: prints the comparison and the command for its page.

    A job that fails ends a sweep with an error, which Hydra raises when all jobs have ended, and then it calls no
    callback. So the comparison is also printed as the program ends, if it has not been by then.
    """

    def __init__(self) -> None:
        self._folder = ""  # of the sweep that is still to be compared

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Remembers the sweep's folder for the end."""
        self._folder = str(config.hydra.sweep.dir)
        atexit.register(self._compare)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Compares the runs in the sweep's folder; a sweep without a finished run says so and ends as it would."""
        self._folder = str(config.hydra.sweep.dir)
        self._compare()

    def _compare(self) -> None:
        """Prints the comparison once."""
        if not self._folder:
            return
        folder, self._folder = self._folder, ""
        # Imported late: every run of the program makes this object, and most are no sweeps.
        from autorank.comparison.compare import compare
        from autorank.comparison.text import console_text

        try:
            text = console_text(compare([folder]))
        except ValueError as error:
            text = str(error)
        print(f"\n{text}\n\n{command(folder)}")


def command(folder: str) -> str:
    """What to type for another reference, the CSV or the page.

    Examples:
        >>> command("runs/a-sweep")
        'python -m experiments.compare runs/a-sweep --page runs/a-sweep/comparison.html'
        >>> command("my runs")
        "python -m experiments.compare 'my runs' --page 'my runs/comparison.html'"
    """
    places = (shlex.quote(folder), shlex.quote(f"{folder}/comparison.html"))
    return "python -m experiments.compare {} --page {}".format(*places)
