"""How much of the log a trial sees: decided once, from the pilots or from the settings, and kept in the ledger."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from autorank.fidelity.fidelity import Fidelity
from autorank.fidelity.rules import FidelityRule
from autorank.ledger import rungs
from autorank.ledger.errors import LedgerMismatch
from autorank.ledger.ledger import Ledger


def decide_fidelity(
    ledger: Ledger, rule: FidelityRule, curves: np.ndarray, where: np.ndarray
) -> tuple[Fidelity, Mapping[str, Any]]:
    """What the ledger says was chosen, or what the pilots' gain curves ``[p, t]`` say; with the record.

    Raises:
        LedgerMismatch: a halving search of a version that compared labels of different rungs.
    """
    known = ledger.records("fidelity")
    if known and rule.restore:
        return rule.restore(known[0]), known[0]
    fidelity, record = rule.choose(curves, where)
    if len(fidelity.rungs) > 1 and ledger.trials("round") and not ledger.records(rungs.KIND):
        raise LedgerMismatch(
            f"{ledger.path}: its trials were promoted by an older version, which ranked labels of different rungs "
            f"together; it cannot be continued. Give this run another name, or write fresh=true to start again"
        )
    ledger.record("fidelity", "choice", record)
    return fidelity, record
