"""Other packages' ways to stop runs early, as rules of studies at equal cost: ``rule: optuna_hyperband`` of an arm.

Such a peer proposes configurations itself and says how far each goes; it may propose what our searchers may, the
space's choices. It lives in a process of its own environment; where that is not there, a study leaves its arms out.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from autorank.studies.campaign import Campaign, Standing
from autorank.studies.spending import SPENDING
from experiments.comparison.peers.base import UNITS, Task, Told, of_space
from experiments.comparison.peers.catalogue import (
    ENVIRONMENTS,
    STOPPING_PEERS,
    Entry,
    how_to_make,
    interpreter,
)
from experiments.comparison.peers.process import PeerProcess

MOST_RUNS = 10_000  # that a peer is told to expect, where it must be told something
WORDS = {
    "optuna_hyperband": "Optuna's TPE and its HyperbandPruner, told of a run after every ninth of it.",
    "smac_hyperband": "SMAC's MultiFidelityFacade: a random forest proposes, Hyperband decides.",
    "neps_priorband": "NePS' PriorBand; the baseline is the prior.",
}


def register_rules() -> None:
    """Makes the peers' rules known to this process."""
    for name, entry in STOPPING_PEERS.items():
        if name not in SPENDING:
            rule = _rule(entry)
            rule.__doc__ = WORDS[name]
            SPENDING.register(name, reads=(), proposes=True, lacks=_lacks(entry))(rule)


def _lacks(entry: Entry) -> Any:
    """What tells which environment is missing; empty if none is."""

    def lacks() -> str:
        if interpreter(entry.environment):
            return ""
        return f"an environment: {how_to_make(entry.environment)}"

    return lacks


def _rule(entry: Entry) -> Any:
    def spend(arm: Any, campaign: Campaign) -> Iterator[Standing]:
        packages = ENVIRONMENTS[entry.environment].packages
        python = interpreter(entry.environment) or ""
        space = campaign.task.space
        seed = int(jax.random.randint(campaign.key, (), 0, 2**31 - 1))
        task = task_of(campaign)
        peer = PeerProcess(
            python, entry.module, entry.factory, task, seed, MOST_RUNS, 1, packages=packages
        )
        try:
            while True:
                values, units = peer.ask_run()
                config = np.asarray(space.encode(values), np.int32)
                label = campaign.train(config, units / UNITS)
                peer.tell([Told(values, label, units=units)])
                yield campaign.ended(1.0)
        finally:
            peer.close()

    return spend


def task_of(campaign: Campaign) -> Task:
    """What a peer may know.

    Raises:
        ValueError: only recorded configurations can be tried.
    """
    if campaign.task.listed is not None:
        raise ValueError(
            f"{campaign.task.name} is a list of recorded configurations, and not every peer can be told of one that it "
            "did not propose; leave the rules of peers out"
        )
    return of_space(campaign.task.space)
