"""The trials: those on the front, and all rows of the ledger."""

import math
from typing import Any

from autorank.ledger.front import front_of
from autorank.ledger.run_folder import Run, labelled
from autorank.ledger.trial import Trial
from autorank.report.markup import table
from autorank.report.numbers import number, ratio, signed
from autorank.report.tables.decisions import difference


def front_table(run: Run) -> str:
    """Trials that no other beats on both label and FLOPs."""
    rows = (
        (
            "",
            (
                t.id,
                signed(t.quality),
                ratio(math.exp(t.cost or 0.0)),
                difference(run, t.config),
            ),
        )
        for t in front_of(labelled(run))
    )
    return table(
        ("trial", "label: NE gain %", "FLOPs", "differs from the baseline in"), rows, "wide"
    )


def trials_table(run: Run) -> str:
    """Every row of the ledger."""
    head = ("trial", "stage", "round", "rung", "status", "label", "FLOPs", "log", "seed")
    head = (*head, "predicted", "differs from the baseline in, or why it failed")
    return table(head, (_row(run, t) for t in run.trials), "wide")


def _row(run: Run, trial: Trial) -> tuple[str, tuple[Any, ...]]:
    differs = difference(run, trial.config)
    cells = (
        trial.id,
        trial.stage,
        trial.round,
        trial.rung,
        trial.status,
        number(trial.quality),
        ratio(None if trial.cost is None else math.exp(trial.cost)),
        f"{trial.fidelity:.0%}",
        trial.seed,
        signed(trial.predicted[0] if trial.predicted else None),
        f"{trial.reason} [{differs}]" if trial.reason else differs,
    )
    return ("failed" if trial.status == "failed" else ""), cells
