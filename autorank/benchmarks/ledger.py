"""The trials of a finished or running search as a benchmark: a pool of the configurations that its ledger has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autorank.benchmarks.base import Benchmark, Values
from autorank.ledger.run_folder import labelled, read_run
from autorank.recorded.pool import Pool
from autorank.space.space import Decision, Space


def ledger_benchmark(file: Path) -> Benchmark:
    """The searched configurations that have a label at the highest rung reached; of repeats the first.

    The loss is the label (NE gain in percent against the search's baseline), the cost the logarithm of the FLOPs ratio
    to it. A search looks mostly where it expects good models, so that its trials are no random sample of the space.

    Args:
        file: ``trials.db`` in the folder of a run.

    Raises:
        FileNotFoundError: there is no ledger.
        ValueError: another name, fewer than two labelled trials, or a ledger that does not hold its space.
    """
    if file.name != "trials.db":
        raise ValueError(f"{file}: a search's ledger is called trials.db; name that file")
    run = read_run(file.parent)
    if not run.decisions:
        raise ValueError(f"{file} does not hold its space; name the ledger of a search")
    decisions = tuple(
        Decision(**{**d, "choices": tuple(d["choices"]), "parents": _parents(d.get("parents"))})
        for d in run.decisions
    )
    space = Space(decisions, run.baseline)
    first = {}
    for trial in labelled(run):
        first.setdefault(trial.config, (trial.quality, trial.cost))
    if len(first) < 2:
        raise ValueError(f"{file} has {len(first)} labelled trials; name a longer search")
    pool = Pool(space, np.array(list(first), np.int32))
    found = np.array(list(first.values()), np.float64)

    def query(rows: Sequence[Values]) -> np.ndarray:
        return found[[pool.place(values) for values in rows]].reshape(-1, 2)

    name = file.resolve().parent.name
    return Benchmark("ledger", name, space, {}, query, float(found[:, 0].min()), pool)


def _parents(given: Sequence[Sequence] | None) -> tuple[tuple[str, tuple], ...]:
    return tuple((name, tuple(values)) for name, values in given or ())
