"""Studies of fidelities on recorded curves: how well a part of the log keeps the order, and what rules make of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from autorank.base.metrics import kendall_tau_b, regret_at_k
from autorank.base.records import as_tuples, digest, plain, require, require_range
from autorank.fidelity.choice import choose_dx, dx_grid
from autorank.fidelity.fidelity import rising
from autorank.studies.curves import CurveTable, curve_table
from autorank.studies.journal import Cell
from autorank.studies.splits import overlap, split_of
from autorank.studies.stopping import PREDICTIONS, RULES, Replay, predicted, within
from autorank.studies.study import (
    SUBJECTS,
    Done,
    Measure,
    Named,
    Study,
    Subject,
    refuse_unknown,
    with_tuples,
)

ORDER = "order"  # in the place of a rule: no budget, all tested curves are seen up to a fraction
READ_BY_ORDER = ("fraction", "prediction", "dx")


MEASURES: Mapping[str, Measure] = {
    "tau_b": Named("Kendall's tau-b with the final order"),
    "regret_at_3": Named("regret@3"),
    "regret": Named("regret of the recommended configuration"),
    "tried": Named("configurations tried"),
    "spent": Named("whole runs spent"),
}
OF_ORDER, OF_RULES = ("tau_b", "regret_at_3"), ("regret", "tried", "spent")


@dataclass(frozen=True)
class FidelityArm:
    """How much of the log is seen, and what is made of it."""

    rule: str = ORDER  # order, or a name of `RULES`
    fraction: float = 0.1  # share of the log; order, fixed
    prediction: str = "constant"  # one of `PREDICTIONS`; order, fixed, stopping
    # Share of the log by which a line is continued; order with prediction=line. Below 0: chosen on pilots that are
    # not tested, as a search does.
    dx: float = -1.0
    rungs: tuple[float, ...] = (0.1, 0.3, 1.0)  # halving, asha
    eta: float = 3.0  # halving, asha
    stops: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # stopping
    drop: float = 0.5  # share dropped at each stop; stopping
    num_pilots: int = 10  # pilots

    def __post_init__(self):
        as_tuples(self, "rungs", "stops")
        require("prediction", self.prediction, PREDICTIONS)
        require_range("fraction", self.fraction, 0.001, 1.0)
        require_range("dx", self.dx, -1.0, 10.0)
        require_range("drop", self.drop, 0.01, 0.99)
        require_range("eta", self.eta, 1.01, 100.0)
        require_range("num_pilots", self.num_pilots, 4, 10_000)
        for key in ("rungs", "stops"):
            rising(key, getattr(self, key))

    @property
    def fit(self) -> str:
        """No two arms share a fit; the labels that they have in common are kept by the table."""
        return digest(plain(self))


@dataclass(frozen=True)
class FidelityStudy(Study):
    """What part of the log is enough."""

    subject: str = "fidelity"
    num_test: int = 400  # curves that a split orders, or that a rule may look at
    num_pilots: int = 20  # others, on which the trend of an arm of `order` is chosen
    budget: float = 20.0  # whole runs that a rule may spend

    MEASURES: ClassVar[Mapping[str, Measure]] = MEASURES
    PLAN: ClassVar[tuple[str, ...]] = ("num_test", "num_pilots", "budget")

    def __post_init__(self):
        super().__post_init__()
        require_range("study.num_test", self.num_test, 4, 1_000_000)
        require_range("study.num_pilots", self.num_pilots, 4, 10_000)
        require_range("study.budget", self.budget, 1.0, 1e6)

    def arm(self, place: str, own: dict[str, Any]) -> FidelityArm:
        """See `Study.arm`."""
        refuse_unknown(place, own, FidelityArm)
        rule = own.get("rule", ORDER)
        reads = READ_BY_ORDER if rule == ORDER else RULES[rule].traits["reads"]
        for key in own.keys() - {"rule", *reads}:
            raise ValueError(f"{place}.{key} has no effect with rule={rule}; leave it out")
        if "dx" in own and own.get("prediction") != "line":
            raise ValueError(f"{place}.dx has no effect without prediction=line; leave it out")
        known = OF_ORDER if rule == ORDER else OF_RULES
        for name in self.measures:
            if name not in known:
                raise ValueError(
                    f"study.measures: {name} is not defined for {place}, whose rule is {rule}; write some of "
                    f"{', '.join(known)}"
                )
        try:
            return FidelityArm(**with_tuples(own))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


@SUBJECTS.register("fidelity", FidelityStudy)
def fidelity_subject(study: FidelityStudy) -> Subject:
    """Fidelity rules are replayed on recorded curves."""
    return Subject(
        curve_table,
        partial(refuse_too_few, study),
        partial(_replayed, study, study.resolved()),
        lambda table: overlap(len(table), study.num_test),
    )


def refuse_too_few(study: FidelityStudy, tables: Sequence[CurveTable]) -> None:
    """Refuses tables with fewer curves than a split needs.

    Raises:
        ValueError: with the numbers.
    """
    for table in tables:
        if study.num_test + study.num_pilots > len(table):
            raise ValueError(
                f"study.num_test={study.num_test} and study.num_pilots={study.num_pilots} are more than the "
                f"{len(table)} curves of {table.name}; write smaller ones"
            )


def _replayed(
    study: FidelityStudy,
    resolved: Mapping[str, FidelityArm],
    arms: Sequence[str],
    table: CurveTable,
    number: int,
    seed: int,
) -> Done:
    """See `Run`."""
    started = time.perf_counter()
    split = split_of(table.name, len(table), study.num_test, number, seed)
    rows = {}
    for name in arms:
        arm = resolved[name]
        if arm.rule == ORDER:
            pilots = split.rest[: study.num_pilots]
            values = _ordered(arm, table, split.test, pilots, split.seed)
        else:
            replay = Replay(table, split.test, split.seed)
            run = within(RULES[arm.rule].make, arm, replay, study.budget)
            values = {
                "regret": float(table.quality[run.chosen]),
                "tried": float(run.tried),
                "spent": run.spent,
            }
        rows[Cell(name, table.name, number)] = {m: values[m] for m in study.measures}
    return Done(rows, time.perf_counter() - started)


def _ordered(
    arm: FidelityArm, table: CurveTable, tested: np.ndarray, pilots: np.ndarray, seed: int
) -> dict[str, float]:
    """How well the labels at a fraction order the ends of the tested curves."""
    num_windows = table.curves.shape[1]
    dx = arm.dx * num_windows
    if arm.prediction == "line" and arm.dx < 0:
        dx = choose_dx(table.curves[pilots], arm.fraction, dx_grid(num_windows), seed=seed)
    labels = predicted(table, arm.fraction, arm.prediction, dx)[tested]
    return {
        "tau_b": kendall_tau_b(labels, table.final[tested]),
        "regret_at_3": regret_at_k(labels, table.quality[tested], 3),
    }
