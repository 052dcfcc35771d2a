"""What a sweep of searches or trainings ends with: the comparison of its runs."""

import shlex
from typing import Any

from hydra.experimental.callback import Callback


class AfterSweep(Callback):
    """Hydra's callback of ``experiments.search`` and ``.train``: prints the comparison and the command for its page."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Compares the runs in the sweep's folder; a sweep without a finished run says so and ends as it would."""
        # Imported late: every run of the program makes this object, and most are no sweeps.
        from autorank.comparison.compare import compare
        from autorank.comparison.text import console_text

        folder = str(config.hydra.sweep.dir)
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
