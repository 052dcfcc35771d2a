"""Labels on one scale: trials that saw different shares of the log are never ranked together.

A searched configuration has one label for each rung that it reached. Its first row in the ledger is
of stage "pilot" or "round"; a row of stage "promotion" is the same configuration one rung higher.
Pilots see the whole log, so they have a label at every rung: the search keeps those as the record
`KIND`, as a pilot's row has only the label at the end of the log.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from autorank.ledger.ledger import Trial

KIND = "rungs"  # of the record: {"rungs": [...], "pilots": {id: [label or null for each rung]}}
SEARCHED = ("pilot", "round", "promotion")


class Climb(NamedTuple):
    """A searched configuration and its labels."""

    trial: Trial  # its last row, under id, round, position and prediction of its first
    labels: dict[float, float]  # rung -> label; empty if it failed at any rung


def climb(rows: Sequence[Trial], labels: Mapping[float, float] | None = None) -> Climb:
    """From one configuration's rows, lowest rung first; ``labels`` replace those of the rows."""
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
    """All searched configurations in the ledger's rows, in order of proposal.

    ``records`` are the ledger's of `KIND`. Without one, pilots count only while there is nothing
    else, or beside trials that saw the whole log.
    """
    rows: dict[tuple[int, ...], list[Trial]] = {}
    for trial in trials:
        if trial.stage in SEARCHED:
            known = rows.setdefault(trial.config, [])
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

    All that did not fail have that label, so it is what a searcher learns from.
    """
    return at(found, min)


def top_rung(found: Iterable[Climb]) -> list[Trial]:
    """Every configuration, with its label at the highest rung that any reached; None below it."""
    return at(found, max)


def at(found: Iterable[Climb], which: Any) -> list[Trial]:
    """The trials with their labels at one rung: the ``which`` (min or max) of those there are."""
    found = list(found)
    rung = which((r for c in found for r in c.labels), default=None)
    return [c.trial._replace(quality=c.labels.get(rung)) for c in found]


def best(trials: Iterable[Trial], records: Sequence[Mapping[str, Any]]) -> float | None:
    """The lowest label at the highest rung that any configuration reached."""
    ranked = top_rung(climbs(trials, records))
    return min((t.quality for t in ranked if t.quality is not None), default=None)
