"""How much of the log a trial sees: decided once, from the pilots or from the settings, and kept in the ledger."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.fidelity.fidelity import Fidelity
from autorank.ledger import rungs
from autorank.ledger.ledger import Ledger, LedgerMismatch


@runtime_checkable
class ChooseFidelity(Protocol):
    """Decides from the pilots' gain curves."""

    def __call__(
        self, curves: np.ndarray, where: np.ndarray | None = None, /
    ) -> tuple[Fidelity, dict[str, Any]]:
        """The fidelity and the record of the choice, for the ledger and the report.

        Args:
            curves: percent against the baseline, ``[p, t]``; without pilots ``[0, t]``.
            where: bool ``[t]``, the windows that can be measured.
        """
        ...


@runtime_checkable
class RestoreFidelity(Protocol):
    """Makes the fidelity that a record of the ledger says was chosen."""

    def __call__(self, record: dict[str, Any], /) -> Fidelity:
        """The fidelity."""
        ...


class FidelityChoice(NamedTuple):
    """How labels are made."""

    # Share of the log at the end of a trial's rows that its label averages.
    tail: float
    choose: ChooseFidelity
    # A resumed search keeps what was chosen; None if ``choose`` decides the same again.
    restore: RestoreFidelity | None = None
    # The rungs, where the settings fix them.
    rungs: tuple[float, ...] = ()


def decide_fidelity(
    ledger: Ledger, choice: FidelityChoice, curves: np.ndarray, where: np.ndarray
) -> tuple[Fidelity, Mapping[str, Any]]:
    """What the ledger says was chosen, or what the pilots' gain curves ``[p, t]`` say; with the record.

    Raises:
        LedgerMismatch: a halving search of a version that compared labels of different rungs.
    """
    known = ledger.records("fidelity")
    if known and choice.restore:
        return choice.restore(known[0]), known[0]
    fidelity, record = choice.choose(curves, where)
    if len(fidelity.rungs) > 1 and ledger.trials("round") and not ledger.records(rungs.KIND):
        raise LedgerMismatch(
            f"{ledger.path}: its trials were promoted by an older version, which ranked labels of different rungs "
            f"together; it cannot be continued. Give this run another name, or write fresh=true to start again"
        )
    ledger.record("fidelity", "choice", record)
    return fidelity, record
