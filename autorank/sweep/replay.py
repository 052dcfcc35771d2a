"""Checking a ledger: whether its proposals would be made again."""

from autorank.ledger.ledger import Ledger
from autorank.space.space import Space
from autorank.sweep.ask_batch import MakeSized
from autorank.sweep.rules import SweepRules
from autorank.sweep.sweep import Sweep


def replay(space: Space, make: MakeSized | None, ledger: Ledger, rules: SweepRules) -> list[str]:
    """Makes every proposal of a ledger again from what was known then; returns what differs, usually nothing.

    Only proposals whose rows are there are compared: an interruption may have cut off the last ask before them.
    """
    sweep = Sweep(space, make, ledger, rules)
    different = []
    for number in range(sweep.num_asks):
        rows = [t for t in sweep.trials() if t.round == number]
        if not rows and number == sweep.num_asks - 1:
            continue
        configs, _ = sweep.proposals(number)
        for trial, config in zip(rows, configs.tolist(), strict=True):
            if list(trial.config) != config:
                different.append(f"trial {trial.id}: {list(trial.config)} is now {config}")
    return different
