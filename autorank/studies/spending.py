"""Ways to spend a budget of training with a searcher: what each configuration gets to see, and what is recommended.

Each rule is a generator of `Standing`, one after each round of proposals; whoever calls it stops when the budget is
spent. A run that was stopped goes on where it was. Sources: successive halving (Jamieson and Talwalkar, AISTATS 2016),
Hyperband (Li et al., JMLR 2018), ASHA (Li et al., MLSys 2020); in BOHB (Falkner et al., ICML 2018) and MOBSTER (Klein
et al., arXiv 2003.10865) a model proposes what these rules start.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from autorank.base.registry import Registry
from autorank.fidelity.fidelity import successive_halving
from autorank.studies.campaign import Campaign, Standing
from autorank.studies.stopping import FINALISTS


@runtime_checkable
class Rule(Protocol):
    """Spends without an end."""

    def __call__(self, arm: Any, campaign: Campaign, /) -> Iterator[Standing]:
        """What would be recommended after each round; ``arm`` is a `CostArm`."""
        ...


# Traits: `reads`, the fields of `CostArm` that a rule reads; `proposes`, whether it proposes configurations itself
# (default: the arm's searcher does); `lacks`, a function that says what it needs and is not installed.
SPENDING: Registry[Rule] = Registry("rule", field="rule")


@SPENDING.register("fixed", reads=("fraction",))
def fixed(arm: Any, campaign: Campaign) -> Iterator[Standing]:
    """Every configuration sees the same share of the log; the best by belief go on to the end, unless that was it."""
    seen: list[np.ndarray] = []
    while True:
        configs = campaign.new(campaign.ask())
        campaign.tell(configs, [campaign.train(c, arm.fraction) for c in configs])
        seen += list(configs)
        belief = campaign.judge()
        order = np.argsort(np.where(np.isfinite(belief), belief, np.inf), kind="stable")
        if arm.fraction == 1.0:
            yield Standing(campaign.spent, seen[order[0]], campaign.tried)
            continue
        best = [seen[i] for i in order[:FINALISTS]]
        ends = [campaign.label(c, 1.0) for c in best]
        rest = len(best) * (1 - arm.fraction)
        yield Standing(campaign.spent + rest, best[int(np.nanargmin(ends))], campaign.tried)


@SPENDING.register("halving", reads=("rungs", "eta", "round"))
def halving(arm: Any, campaign: Campaign) -> Iterator[Standing]:
    """Successive halving within each round of proposals; the searcher is told the labels at the lowest rung."""
    while True:
        yield _bracket(arm, campaign, arm.rungs, arm.round)


@SPENDING.register("hyperband", reads=("rungs", "eta"))
def hyperband(arm: Any, campaign: Campaign) -> Iterator[Standing]:
    """Hyperband: brackets of successive halving that begin at each rung in turn, at about equal cost."""
    num = len(arm.rungs)
    best: Standing | None = None
    low = math.inf
    while True:
        for first in range(num):
            left = num - 1 - first
            size = math.ceil(num / (left + 1) * arm.eta**left)
            found = _bracket(arm, campaign, arm.rungs[first:], size)
            label = campaign.label(found.chosen, 1.0)
            if best is None or label < low:
                best, low = found, label
            yield best._replace(spent=campaign.spent, tried=campaign.tried)


def _bracket(arm: Any, campaign: Campaign, rungs: Sequence[float], size: int) -> Standing:
    """One bracket; the best of all that have reached the last rung."""
    keep = successive_halving(rungs, eta=arm.eta).keep
    proposed: list[np.ndarray] = []
    while len(proposed) < size:
        wanted = campaign.new(campaign.ask()[: size - len(proposed)])
        campaign.tell(wanted, [campaign.train(c, rungs[0]) for c in wanted])
        proposed += list(wanted)
    alive = proposed
    labels = np.array([campaign.label(c, rungs[0]) for c in alive])
    for rung in rungs[1:]:
        alive = [alive[i] for i in keep(labels)]
        labels = np.array([campaign.train(c, rung) for c in alive])
    return campaign.ended(rungs[-1])


@SPENDING.register("asha", reads=("rungs", "eta"))
def asha(arm: Any, campaign: Campaign) -> Iterator[Standing]:
    """ASHA: whatever is in the best ``1/eta`` of its rung goes on; new configurations take the places that are left."""
    rungs = arm.rungs
    at: list[dict[bytes, float]] = [{} for _ in rungs]
    while True:
        proposals = campaign.ask()
        places = len(proposals)
        going = []
        for rung in reversed(range(len(rungs) - 1)):
            known = {name: label for name, label in at[rung].items() if math.isfinite(label)}
            best = sorted(known, key=known.__getitem__)[: int(len(at[rung]) / arm.eta)]
            going += [(rung + 1, name) for name in best if name not in at[rung + 1]]
        for rung, name in going[:places]:
            at[rung][name] = campaign.train(np.frombuffer(name, np.int32), rungs[rung])
        new = campaign.new(proposals[: places - len(going[:places])])
        if len(new):
            labels = [campaign.train(c, rungs[0]) for c in new]
            campaign.tell(new, labels)
            at[0] |= {c.tobytes(): label for c, label in zip(new, labels, strict=True)}
        yield campaign.ended(rungs[-1])


@SPENDING.register("freeze_thaw", reads=("rungs",))
def freeze_thaw(arm: Any, campaign: Campaign) -> Iterator[Standing]:
    """The searcher says what begins and what goes on, and to which rung; the lowest belief among what ended counts."""
    rungs, rows = arm.rungs, []
    while True:
        configs, rung = np.split(campaign.ask(), [-1], axis=1)
        begins = rung[:, 0] == 0
        own = configs.astype(np.int32)
        if begins.any():
            own[begins] = campaign.new(own[begins])
        labels = [campaign.train(c, rungs[r]) for c, r in zip(own, rung[:, 0], strict=True)]
        told = np.concatenate([own, rung], axis=1).astype(np.int32)
        campaign.tell(told, labels)
        rows += list(told)
        belief = campaign.judge()
        ended = {r[:-1].tobytes() for r in rows if r[-1] == len(rungs) - 1}
        counts = np.array([not ended or r[:-1].tobytes() in ended for r in rows])
        best = int(np.nanargmin(np.where(counts & np.isfinite(belief), belief, np.inf)))
        yield Standing(campaign.spent, rows[best][:-1], campaign.tried)
