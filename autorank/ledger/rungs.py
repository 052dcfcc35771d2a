"""Labels on one scale: trials that saw different shares of the log are never ranked together.

A searched configuration has one label for each rung that it reached. Its first row in the ledger is
of stage "pilot" or "round"; a row of stage "promotion" is the same configuration one rung higher.
Pilots see the whole log, so they have a label at every rung. A pilot's row has only the label at
the end of the log, so the search keeps the others as the record `KIND`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from autorank.ledger.trial import Trial

# Kind of the record {"rungs": [...], "pilots": {id: [label or null for each rung]}}.
KIND = "rungs"
SEARCHED = ("pilot", "round", "promotion")


class Climb(NamedTuple):
    """A searched configuration and its labels."""

    # Its last row, with id, round, position and prediction of its first.
    trial: Trial
    # Rung (as a share of the log) -> label; empty if the configuration failed at any rung.
    labels: dict[float, float]


def climb(rows: Sequence[Trial], labels: Mapping[float, float] | None = None) -> Climb:
    """The climb of one configuration from its rows, lowest rung first; ``labels`` replace those of the rows."""
    ended = [row for row in rows if row.status != "proposed"]
    first, last = rows[0], (ended or rows)[-1]
    kept = ("id", "round", "position", "predicted", "proposed_at")
    trial = last._replace(**{name: getattr(first, name) for name in kept})
    if any(row.status == "failed" for row in rows):
        return Climb(trial, {})
    own = {row.fidelity: row.quality for row in rows if row.quality is not None}
    found = own if labels is None else labels
    return Climb(trial, {rung: v for rung, v in found.items() if math.isfinite(v)})


def climbs(trials: Iterable[Trial], records: Sequence[Mapping[str, Any]]) -> list[Climb]:
    """All searched configurations in the ledger's rows, in order of proposal; one for each seed it was trained with.

    ``records`` are the ledger's of `KIND`. Without one, pilots count only while there is nothing
    else, or beside trials that saw the whole log.
    """
    rows: dict[tuple[tuple[int, ...], int], list[Trial]] = {}
    for trial in trials:
        if trial.stage in SEARCHED:
            known = rows.setdefault((trial.config, trial.seed), [])
            if not known or trial.fidelity > known[-1].fidelity:
                known.append(trial)
    record = records[0] if records else {"rungs": [], "pilots": {}}
    of_pilots = {
        int(i): {r: math.nan if v is None else v for r, v in zip(record["rungs"], row, strict=True)}
        for i, row in record["pilots"].items()
    }
    found = [climb(r, of_pilots.get(r[0].id)) for r in rows.values()]
    others = {rung for c in found if c.trial.stage != "pilot" for rung in c.labels}
    if not records and others and 1.0 not in others:
        found = [c._replace(labels={}) if c.trial.stage == "pilot" else c for c in found]
    return found


def first_rung(found: Iterable[Climb]) -> list[Trial]:
    """Every configuration, with its label at the lowest rung as its quality; None where it failed.

    All configurations that did not fail have that label, so searchers learn from it.
    """
    found = list(found)
    return labelled_at(found, min(all_rungs(found), default=None))


def top_rung(found: Iterable[Climb]) -> list[Trial]:
    """Every configuration, with its label at the highest rung that any reached; None if it did not reach it."""
    found = list(found)
    return labelled_at(found, max(all_rungs(found), default=None))


def all_rungs(found: Sequence[Climb]) -> set[float]:
    """The rungs at which any configuration has a label."""
    return {rung for c in found for rung in c.labels}


def labelled_at(found: Sequence[Climb], rung: float | None) -> list[Trial]:
    """The trials with their labels at one rung as quality."""
    return [c.trial._replace(quality=None if rung is None else c.labels.get(rung)) for c in found]


def best(trials: Iterable[Trial], records: Sequence[Mapping[str, Any]]) -> float | None:
    """The lowest label at the highest rung that any configuration reached; None without a label."""
    ranked = top_rung(climbs(trials, records))
    return min((t.quality for t in ranked if t.quality is not None), default=None)
