"""A comparison of runs, from folders to rows."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.base.records import require
from autorank.comparison.finding import LEDGER, OFFLINE, RESULT, SERVER, run_folders
from autorank.comparison.grouping import (
    Group,
    Idle,
    chosen,
    differing,
    groups_of,
    idle_differences,
    short_key,
    text_of,
    tied_to_data,
)
from autorank.comparison.pairing import MEASURES, Difference, Overall, Row, overall, rows_of
from autorank.comparison.reading import read_search
from autorank.comparison.reading_training import read_training
from autorank.comparison.reading_wandb import is_offline, read_offline, read_projects
from autorank.comparison.result import LeftOut, Result


class Block(NamedTuple):
    """The runs on one prepared log with one searched metric; pairs are never made across blocks."""

    name: str
    metric: str
    rows: list[Row]


class Comparison(NamedTuple):
    """Everything that the console, the CSV and the page show."""

    measure: str
    reference: Group
    groups: list[Group]
    blocks: list[Block]
    overall: list[Overall]  # groups with pairs on several data sets
    keys: list[str]  # settings that differ between groups
    idle: list[Idle]
    notes: list[str]
    left_out: list[LeftOut]

    @property
    def num_runs(self) -> int:
        """The runs that take part."""
        return sum(len(group.results) for group in self.groups)


def compare(
    places: Iterable[str],
    reference: Sequence[str] = (),
    measure: str | None = None,
    by: Sequence[str] = (),
    api: Callable[[], Any] | None = None,
) -> Comparison:
    """Reads the runs of some places and compares them.

    Args:
        places: folders, folders of runs, patterns: see `finding.run_folders`.
        reference: which group the others are compared with, see `grouping.chosen`; the first one without it.
        measure: of `MEASURES`; None is the first that any run has.
        by: more keys that tell groups apart, see `grouping.groups_of`.
        api: gives the `wandb.Api` for places ``wandb:[ENTITY/]PROJECT``.

    Raises:
        ValueError: no run is finished, or an argument says nothing that there is.
    """
    results, left_out = read_all(places, api)
    if not results:
        raise ValueError("\n".join(["no finished run to compare", *left_out_lines(left_out)]))
    if measure is None:
        known = [m for m in MEASURES if any(math.isfinite(r.values[m]) for r in results)]
        measure = known[0] if known else "gain"
    require("--measure", measure, tuple(MEASURES))
    tied = tied_to_data(results)
    groups = groups_of(results, by, tied)
    base = chosen(groups, reference)
    blocks = [
        Block(name, members[0].metric, rows_of(groups, members, base, measure))
        for name, members in blocks_of(results).items()
    ]
    keys = differing([g.settings for g in groups])
    notes = list(notes_of(groups, base, blocks, keys, measure))
    if tied:
        notes.append(f"Each data set has its own {', '.join(tied)}, which tell no groups apart.")
    return Comparison(
        measure,
        base,
        groups,
        blocks,
        overalls(groups, blocks),
        keys,
        idle_differences(results),
        notes,
        left_out,
    )


def overalls(groups: Sequence[Group], blocks: Sequence[Block]) -> list[Overall]:
    """The groups that have pairs on at least two data sets, best first."""
    found: dict[str, list[Difference]] = {}
    for row in (row for block in blocks for row in block.rows):
        if row.difference is not None and row.difference.seeds:
            found.setdefault(row.group.letter, []).append(row.difference)
    rows = [overall(g, found[g.letter]) for g in groups if len(found.get(g.letter, [])) > 1]
    return sorted(rows, key=lambda row: row.mean)


def read_all(
    places: Iterable[str], api: Callable[[], Any] | None = None
) -> tuple[list[Result], list[LeftOut]]:
    """The finished runs, and those that are left out with the reason: beside searches, also models trained alone."""
    places = list(places)
    projects = [place for place in places if place.startswith(SERVER)]
    folders = run_folders(place for place in places if place not in projects)
    offline = [folder for folder in folders if is_offline(folder)]
    entries: list[Result | list[Result] | LeftOut] = [
        read(folder) for folder in folders if folder not in offline
    ]
    entries += read_offline(offline)
    if projects:
        entries += read_projects(projects, needed(api))
    searches = [entry for entry in entries if isinstance(entry, Result)]
    left_out = [entry for entry in entries if isinstance(entry, LeftOut)]
    trained = [result for entry in entries if isinstance(entry, list) for result in entry]
    if not searches:
        return trained, left_out
    reason = "a model trained alone, which is not compared with searches; give such folders alone"
    left_out += [LeftOut(folder, reason) for folder in dict.fromkeys(r.folder for r in trained)]
    return searches, left_out


def needed(api: Callable[[], Any] | None) -> Callable[[], Any]:
    """The way to a server, where a place asks for one."""
    if api is None:
        raise ValueError(f"{SERVER}PROJECT is read by python -m experiments.compare alone")
    return api


def read(folder: Path) -> Result | list[Result] | LeftOut:
    """The search in a folder, or the seeds of a model that was trained alone."""
    if (folder / LEDGER).is_file():
        return read_search(folder)
    if (folder / RESULT).is_file():
        return read_training(folder)
    where = f"no {LEDGER}, {RESULT} or {OFFLINE} there, nor in a folder below"
    return LeftOut(folder, f"{where}; give a run's folder")


def blocks_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Runs by prepared log and searched metric, under a name for each."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.fingerprint, result.metric), []).append(result)
    firsts = [members[0] for members in found.values()]
    named: dict[str, list[Result]] = {}
    for first, members in zip(firsts, found.values(), strict=True):
        alike = [f for f in firsts if f.data == first.data]
        keys = differing([f.data_settings for f in alike])
        parts = [f"{key}={text_of(first.data_settings, key)}" for key in keys]
        prepared = {f.fingerprint for f in alike if f.data_settings == first.data_settings}
        if len(prepared) > 1:
            parts.append(f"data {first.fingerprint[:8]}")
        named[f"{', '.join([first.data, *parts])} ({first.metric})"] = members
    return named


def notes_of(
    groups: Sequence[Group],
    reference: Group,
    blocks: Sequence[Block],
    keys: Sequence[str],
    measure: str,
) -> Iterable[str]:
    """What a reader must know before believing a row."""
    others = sum(row.difference is not None for block in blocks for row in block.rows)
    if others > 1:
        yield (
            f"Intervals are one by one: if none of the {others} differences were real, {0.05 * others:.2g} of them "
            f"would still seem so on average."
        )
    own = [short_key(k) for k in keys if k.split(".")[0] in ("model", "training")]
    if own and measure != "ne":
        yield (
            f"Groups have different baselines ({', '.join(own)}), and a {measure} counts from a run's own baseline: "
            f"--measure ne compares held-out NE itself."
        )
    if measure == "label":
        yield (
            "A label is the lowest of many noisy ones, with the search's own seed: it is too good on average, and "
            "the more so the more trials a search has."
        )
    if measure == "gain":
        where = {str(r.summary.get("ne_gain_on")) for g in groups for r in g.results}
        if len(where) > 1:
            yield f"The gains are not all measured on the same rows: {' and '.join(sorted(where))}."
    for group in groups:
        yield from notes_of_group(group, reference, measure)


def notes_of_group(group: Group, reference: Group, measure: str) -> Iterable[str]:
    """What is special about one group's runs."""
    seeds = [(r.fingerprint, r.metric, r.seed) for r in group.results]
    if len(set(seeds)) < len(seeds):
        yield (
            f"{group.letter} has {len(seeds)} runs of {len(set(seeds))} seeds; runs of one seed count once, by "
            f"their mean."
        )
    unknown = [
        f"{r.folder} (seed {r.seed})" for r in group.results if not math.isfinite(r.values[measure])
    ]
    if unknown:
        listed = ", ".join(unknown)
        yield f"{group.letter}: {len(unknown)} without a known {measure}, left out of its row: {listed}."
    revisions = {str(r.summary.get("git_revision")) for r in group.results}
    if len(revisions) > 1:
        yield (
            f"{group.letter} mixes runs of {len(revisions)} revisions of the code; --by git_revision tells them apart."
        )
    known = {(r.fingerprint, r.metric) for r in reference.results}
    if group is not reference and not known & {(r.fingerprint, r.metric) for r in group.results}:
        yield f"{group.letter} has no data set in common with the reference, so it has no difference."


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """One line for each folder that takes no part."""
    return [f"  {folder}: {reason}" for folder, reason in left_out]
