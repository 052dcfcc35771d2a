"""Seconds of a whole search, everything included, and where they go.

    python -m experiments.speed.search_speed --rounds 1 --core -1 --only MovieLens

Each measurement starts with an empty cache of programs and an empty run folder, with the settings of `make search`.
Phases are wall seconds of the main thread; compiling and training happen side by side on two workers inside
"trials", so theirs are summed over workers. ``MOVIELENS`` names the folder or archive of the data (else it is fetched
first, which is not counted). Use ``--core -1``: a search takes two cores.
"""

import functools
import importlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.speed.figures import Figure, Target
from experiments.speed.harness import Bench, run

SHAPES = {
    "MovieLens-100K, 100 trials": ["data=movielens"],
    "synthetic, toy": ["experiment=toy"],
}
# Function -> phase, as (module, name, phase).
PHASES = (
    ("autorank.app.build", "dataset", "prepare"),
    ("autorank.app.search_job", "describe", "describe"),
    ("autorank.search.run", "diagnose", "diagnose predictor"),
    ("autorank.search.run", "run_finals", "finalists"),
    ("autorank.search.run", "confirm", "verdict"),
    ("autorank.search.run", "run_test", "held-out test"),
    ("autorank.search.run", "summarise", "summary with rows/s"),
    ("autorank.app.search_job", "export_winner", "export"),
    ("autorank.app.search_job", "write_report", "report"),
)


class Phases:
    """Wall seconds by phase, of functions that it replaces in their modules."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    def timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, its wall seconds added to a phase."""

        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[phase] += time.perf_counter() - began

        return wrapper

    def replace(self) -> None:
        """Times the functions of `PHASES`, asking, and training; for the rest of this process."""
        from autorank.app import build
        from autorank.search.rounds import SearcherInUse

        for module, name, phase in PHASES:
            owner = importlib.import_module(module)
            setattr(owner, name, self.timed(phase, getattr(owner, name)))
        SearcherInUse.ask = self.timed("ask", SearcherInUse.ask)
        build.objective = self._training(build.objective)

    def _training(self, make_objective: Callable[..., Any]) -> Callable[..., Any]:
        """An objective whose trials are timed, by the main thread and by its workers."""

        def timed_objective(*args: Any) -> Any:
            found = make_objective(*args)

            def evaluate(*what: Any) -> Any:
                started = time.perf_counter()
                for index, outcome in found.evaluate(*what):
                    self.spent["trials"] += time.perf_counter() - started
                    self.spent["training (workers)"] += outcome.seconds
                    yield index, outcome
                    started = time.perf_counter()
                self.spent["trials"] += time.perf_counter() - started

            return found._replace(evaluate=evaluate)

        return timed_objective


def measure(shape: str, variant: str) -> Mapping[str, Figure]:
    """One search in this process."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-search-"))
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
    os.environ.setdefault("WANDB_MODE", "offline")
    from hydra import compose, initialize_config_dir

    from autorank.app.programs import CONFIGS, register, set_up_jax, settings
    from autorank.app.settings import SearchConfig

    began, cpu = time.perf_counter(), time.process_time()
    register()
    overrides = list(SHAPES[shape])
    if "MOVIELENS" in os.environ and "data=movielens" in overrides:
        overrides.append(f"data.path={os.environ['MOVIELENS']}")
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = settings(compose("search", overrides=overrides), SearchConfig)
    set_up_jax()
    from autorank.app import search_job

    phases = Phases()
    phases.replace()
    summary = search_job.run_search(config, scratch / "run")
    figures = {
        "wall": Figure(time.perf_counter() - began, "s"),
        "cpu": Figure(time.process_time() - cpu, "s"),
        "compiling (workers)": Figure(summary["compile_seconds"], "s"),
        "compiles": Figure(summary["num_compiles"], "programs"),
    }
    gain = (summary["ne_gain_percent"] or {}).get("mean")
    if gain is not None:
        figures["NE gain"] = Figure(gain, "%")
    return figures | {phase: Figure(seconds, "s") for phase, seconds in phases.spent.items()}


# Half of what revision e69d973 took on the same machine in the same hour: 474 s, `python -m experiments.search` there.
BENCH = Bench(
    name="search_speed",
    cases=[(shape, "autorank") for shape in SHAPES],
    measure=measure,
    bounds={("MovieLens-100K, 100 trials", "autorank", "wall"): Target(237.0, at_most=True)},
)

if __name__ == "__main__":
    run(BENCH)
