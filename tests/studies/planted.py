"""Records whose truth is known, and shipped studies cut to their size."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from autorank.benchmarks.base import Benchmark
from autorank.space.space import Decision, Space
from autorank.studies.findings import Finding, findings
from autorank.studies.journal import Journal
from autorank.studies.predictor_study import PredictorStudy
from autorank.studies.records import Records, records_of
from autorank.studies.run import identity_of, run_study
from autorank.studies.subjects import study_of
from experiments.comparison.peers.in_study import register_rules

ROOT = Path(__file__).resolve().parents[2]
register_rules()  # some shipped studies have arms of other packages
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SPACE = Space(
    tuple(Decision(name, LEVELS, "number") for name in "abcd"),
    (0, 0, 0, 0),
)


def planted(name: str, truth: Any) -> Records:
    """All 1296 configurations of four numbers in [0, 1] with ``truth(x [n, 4])`` as their loss."""
    return records_of(benchmark(name, truth))


def benchmark(name: str, truth: Any, cost: Any = lambda x: x.sum(axis=1)) -> Benchmark:
    """The same as a benchmark, with ``cost(x [n, 4])`` as the logarithm of the cost."""

    def query(rows: Any) -> np.ndarray:
        x = np.array([[row[d] for d in "abcd"] for row in rows]).reshape(-1, 4)
        return np.stack([truth(x), cost(x)], axis=1)

    return Benchmark("planted", name, SPACE, {}, query)


def linear(x: np.ndarray) -> np.ndarray:
    return x @ np.array([4.0, 2.0, 1.0, 0.5])


def shipped(path: Path) -> Any:
    """A study of ``configs/study``, of the type of its subject."""
    return study_of(yaml.safe_load(path.read_text()))


def cut(name: str, arms: tuple[str, ...], reference: str, **changes: Any) -> PredictorStudy:
    """A shipped study with some of its arms."""
    study = shipped(ROOT / "configs" / "study" / f"{name}.yaml")
    kept = {arm: study.arms[arm] for arm in arms}
    contrasts = {w: sums for w, sums in study.contrasts.items() if sums.keys() <= set(arms)}
    return dataclasses.replace(
        study, arms=kept, reference=reference, contrasts=contrasts, **changes
    )


def found(
    folder: Path, study: Any, tables: list[Any], splits: int
) -> dict[tuple[str, str, str], Finding]:
    """What a study finds, by arm, table and measure."""
    with Journal(folder, identity_of(study, tables, 0), study.measures) as journal:
        rows = run_study(study, tables, journal, splits=splits, seed=0, workers=2)
    return {(f.arm, f.table, f.measure): f for f in findings(study, tables, splits, rows)}
