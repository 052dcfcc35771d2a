"""What an earlier search leaves for the next one: its trials, in the space of the new search.

They are read once, when the new search begins, and copied into its ledger as a record of `KIND`. From then on the new
search reads its own ledger alone: that the earlier one goes on, or is deleted, changes nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.base.records import digest
from autorank.ledger import rungs
from autorank.ledger.front import pareto_front
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import values_of
from autorank.searchers.base import Warm
from autorank.space.space import Decision, Space

# Kind of the record that lists, for each ledger, {"path", "digest", "trials": [[choices, label, log FLOPs ratio], ...],
# "left_out", "not_searched_there", "not_searched_here"}.
KIND = "warm_start"
LEAST = 5  # trials with a label, below which an earlier search says nothing
MOST = 384  # trials of one ledger that are used
STEP = 64  # to a multiple of which their number is padded, so that programs are found again


class Wanted(NamedTuple):
    """What an earlier search must share with the new one."""

    space: Space
    metric: str  # canonical name
    goal: str


def read_earlier(path: str, wanted: Wanted, own: Path) -> dict[str, Any]:
    """The trials of an earlier search's ledger, as the new search's ledger keeps them.

    Args:
        path: a run's folder, or its ``trials.db``.
        wanted: what the new search is.
        own: the new search's ledger.

    Raises:
        ValueError: why it cannot warm this search, and what to write.
    """
    file = Path(path) if Path(path).suffix == ".db" else Path(path) / "trials.db"
    if file.resolve() == own.resolve():
        raise ValueError(
            f"search.warm_start={path} is this run itself, which goes on by itself; name an earlier run"
        )
    try:
        with Ledger.read(file) as ledger:
            plan = plan_of(ledger.file.identity)
            decisions, baseline = ledger.get("decisions"), ledger.get("baseline")
            found = rungs.climbs(ledger.trials(), ledger.records(rungs.KIND))
    except FileNotFoundError:
        raise ValueError(
            f"search.warm_start={path}: there is no ledger; write a run's folder that has a trials.db, or null"
        ) from None
    refuse_others(path, wanted, plan, decisions)
    rows = [
        (t.config, t.quality, t.cost) for t in rungs.first_rung(found) if t.status != "proposed"
    ]
    earlier = [d["name"] for d in decisions]
    if not set(earlier) & set(wanted.space.names):
        raise ValueError(
            f"search.warm_start={path} varied {', '.join(earlier)}, and this search none of these; leave it out"
        )
    moved = Translation(decisions, wanted.space)
    trials = [
        [config, label, cost]
        for choices, label, cost in [(tuple(baseline), 0.0, 0.0), *rows]
        if (config := moved(choices)) is not None
    ]
    finished = sum(label is not None for _, label, _ in trials)
    if finished < LEAST:
        raise ValueError(
            f"search.warm_start={path} has {max(finished, 0)} trials with a label in this search's space, and "
            f"{LEAST} are the least that say anything; leave it out"
        )
    return {
        "path": path,
        "digest": digest(trials)[:16],
        "left_out": len(rows) + 1 - len(trials),
        "not_searched_there": [n for n in wanted.space.names if n not in earlier],
        "not_searched_here": [n for n in earlier if n not in wanted.space.names],
        "trials": trials,
    }


def plan_of(identity: Mapping[str, str]) -> dict[str, Any] | None:
    """The course of an earlier search by dotted key; None where its ledger does not say."""
    text = identity.get("plan", "")
    return {"search.goal": "best"} | json.loads(text) if text.startswith("{") else None


def refuse_others(
    path: str, wanted: Wanted, plan: Mapping[str, Any] | None, decisions: Any
) -> None:
    """Refuses a ledger of another label or goal, and what is no search's.

    Raises:
        ValueError: with what to write.
    """
    if plan is None or not decisions:
        raise ValueError(
            f"search.warm_start={path} does not say what it searched for: it is no search's ledger (a sweep's, say), "
            f"or an early version's; leave it out"
        )
    ours = {"search.metric": wanted.metric, "search.goal": wanted.goal}
    for key, value in ours.items():
        if plan[key] != value:
            raise ValueError(
                f"search.warm_start={path} went by {key}={plan[key]}, this search by {key}={value}: labels of one "
                f"say nothing certain about the other; leave it out, or write {key}={plan[key]}"
            )


class Translation:
    """From choices of an earlier space to a configuration of the new one, by the names of decisions.

    A number that is no choice here becomes the nearest one between the lowest and the highest; another value cannot be
    said here. Decisions that the earlier search did not vary take the baseline's choice.
    """

    def __init__(self, decisions: Sequence[Mapping[str, Any]], space: Space) -> None:
        self._decisions, self._space = decisions, space
        self._here = {d.name: d for d in space.decisions}

    def __call__(self, choices: Sequence[int]) -> list[int] | None:
        """The configuration, canonical; None where it cannot be said in the new space."""
        values = {}
        for name, value in values_of(self._decisions, choices).items():
            if name in self._here:
                found = nearest_choice(self._here[name], value)
                if found is None:
                    return None
                values[name] = found
        return [int(v) for v in self._space.encode(values)]


def nearest_choice(decision: Decision, value: Any) -> Any:
    """The choice that stands for a value; None where none does.

    Examples:
        >>> rate = Decision("rate", (0.001, 0.01, 0.1), "number", True)
        >>> nearest_choice(rate, 0.02), nearest_choice(rate, 0.5), nearest_choice(rate, True)
        (0.01, None, None)
    """
    for choice in decision.choices:
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return choice
    if decision.kind != "number" or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not min(decision.choices) <= value <= max(decision.choices):
        return None
    scale = math.log if decision.log else float
    return min(decision.choices, key=lambda choice: abs(scale(choice) - scale(value)))


def warm_of(
    records: Sequence[Mapping[str, Any]], space: Space, *, num_first: int, goal: str
) -> Warm | None:
    """What a searcher is warmed by; None without records.

    Args:
        records: of the earlier searches, as `read_earlier` makes them.
        space: of the search.
        num_first: how many trials are to be tried first.
        goal: best has those of the lowest labels, front those of the front, spread over its costs; of several ledgers
            they take turns.
    """
    if not records:
        return None
    used = [most_telling(record["trials"]) for record in records]
    rows = STEP * math.ceil(max(map(len, used)) / STEP)
    configs = np.tile(np.array(space.baseline, np.int32), (len(used), rows, 1))
    quality = np.full((len(used), rows), np.nan, np.float32)
    for i, trials in enumerate(used):
        configs[i, : len(trials)] = [config for config, _, _ in trials]
        quality[i, : len(trials)] = [np.nan if v is None else v for _, v, _ in trials]
    return Warm(configs, quality, promising(records, space, num_first, goal))


def most_telling(trials: Sequence[Any], most: int = MOST) -> list[Any]:
    """The trials with a label, best first: of too many, the better half of ``most`` and some spread over the rest.

    Examples:
        >>> [label for _, label, _ in most_telling([[[0], v, 0.0] for v in (4, 1, None, 3, 2, 5, 6)], most=4)]
        [1, 2, 3, 6]
    """
    ranked = sorted((t for t in trials if t[1] is not None), key=lambda t: t[1])
    if len(ranked) <= most:
        return ranked
    half = most // 2
    rest = np.linspace(half, len(ranked) - 1, most - half).round().astype(int)
    return ranked[:half] + [ranked[i] for i in rest]


def promising(
    records: Sequence[Mapping[str, Any]], space: Space, num_first: int, goal: str
) -> np.ndarray:
    """The earlier trials that are worth trying first, int32 ``[n, k]``: different ones, without the baseline."""
    lists = [leaders(record["trials"], num_first, goal) for record in records]
    ordered = [own[i] for i in range(max(map(len, lists))) for own in lists if i < len(own)]
    unique = list(dict.fromkeys(c for c in map(tuple, ordered) if c != tuple(space.baseline)))
    return np.array(unique[:num_first], np.int32).reshape(-1, space.num_decisions)


def leaders(trials: Sequence[Any], num: int, goal: str) -> list[list[int]]:
    """Configurations of the best labels, best first; or of the front, spread over its costs."""
    ranked = [config for config, _, _ in most_telling(trials, len(trials))]
    if goal != "front":
        return ranked
    known = [trial for trial in trials if None not in trial]
    front = [known[i][0] for i in pareto_front([(cost, label) for _, label, cost in known])]
    spread = np.linspace(0, len(front) - 1, min(num, len(front))).round().astype(int)
    return [front[i] for i in spread] + ranked


def in_brief(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What of earlier searches was used, for the summary: the number of trials in place of them."""
    return [
        {**record, "trials": len(record["trials"]), "in_words": described(record)}
        for record in records
    ]


def described(record: Mapping[str, Any]) -> str:
    """One sentence about an earlier search and what of it is used."""
    trials = record["trials"]
    text = f"{sum(label is not None for _, label, _ in trials)} trials of {record['path']}"
    if record["left_out"]:
        text += f", {record['left_out']} left out that this space cannot say"
    if record["not_searched_there"]:
        text += f"; it did not vary {', '.join(record['not_searched_there'])}"
    if record["not_searched_here"]:
        text += f"; this search does not vary {', '.join(record['not_searched_here'])}"
    return text
