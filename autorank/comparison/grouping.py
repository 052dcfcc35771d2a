"""Groups of runs that differ by nothing but seed and data, and what tells groups apart."""

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.comparison.finding import by_number
from autorank.comparison.result import Result

ABSENT = "-"  # a setting that a group's searcher or fidelity rule does not have
MOST_SPACE_KEYS = 2  # that a name spells out
# A part's own settings, and the setting that says which part it is.
PART_OF = {
    "searcher": "searcher.name",
    "predictor": "searcher.name",
    "fidelity": "fidelity.kind",
}
ORDER = ("searcher", "predictor", "fidelity", "search", "model", "training", "space")


class Group(NamedTuple):
    """Runs with the same settings: seeds, and maybe several data sets."""

    letter: str
    name: str  # what tells it apart
    settings: dict[str, Any]
    results: list[Result]


def tied_to_data(results: Sequence[Result]) -> list[str]:
    """Settings of the baseline that every data set has its own value of: they come with the data, as its group does.

    A data set is a prepared log and a searched metric.
    """
    keys = differing([r.settings for r in results])
    blocks: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        blocks.setdefault((result.fingerprint, result.metric), []).append(result)
    within = {k for members in blocks.values() for k in differing([r.settings for r in members])}
    return [k for k in keys if k not in within and k.split(".")[0] in ("model", "training")]


def groups_of(
    results: Sequence[Result], by: Sequence[str] = (), without: Sequence[str] = ()
) -> list[Group]:
    """The groups in order of their first run.

    Args:
        results: the runs.
        without: settings that tell no groups apart, see `tied_to_data`.
        by: more keys of settings or summary that tell groups apart, such as ``git_revision`` or ``search.executor``.

    Raises:
        ValueError: no run has one of the keys.
    """
    extra = [{key: extra_value(result, key) for key in by} for result in results]
    for key in by:
        if all(values[key] is None for values in extra):
            raise ValueError(
                f"--by {key}: no run has it; write a setting such as search.executor, or a key of summary.json"
            )
    found: dict[str, list[Result]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for result, more in zip(results, extra, strict=True):
        whole = {k: v for k, v in result.settings.items() if k not in without} | more
        key = json.dumps(whole, sort_keys=True)
        found.setdefault(key, []).append(result)
        settings[key] = whole
    names = names_of(list(settings.values()))
    return [
        Group(letter(i), name, settings[key], members)
        for i, (name, (key, members)) in enumerate(zip(names, found.items(), strict=True))
    ]


def extra_value(result: Result, key: str) -> Any:
    """A setting that no group is told apart by of itself, or an entry of the summary; None without one."""
    for known in (result.machine, result.settings, result.idle, result.summary):
        if key in known:
            return known[key]
    return None


def letter(index: int) -> str:
    """Names by position: A to Z, then AA, AB, ...

    Examples:
        >>> letter(0), letter(25), letter(26), letter(27)
        ('A', 'Z', 'AA', 'AB')
    """
    first, last = divmod(index, 26)
    return (letter(first - 1) if first else "") + string.ascii_uppercase[last]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all, parts first."""
    keys = {k for s in settings for k in s}
    found = [k for k in keys if len({text_of(s, k) for s in settings}) > 1]

    def place(key: str) -> tuple:
        group = key.split(".")[0]
        rank = ORDER.index(group) if group in ORDER else len(ORDER)
        return key not in PART_OF.values(), rank, by_number(key)

    return sorted(found, key=place)


def text_of(settings: Mapping[str, Any], key: str) -> str:
    """A setting as one writes it on a command line; `ABSENT` where it is not set."""
    if key not in settings:
        return ABSENT
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def short_key(key: str) -> str:
    """``searcher`` for ``searcher.name``: what one writes to choose a part."""
    return key.rpartition(".")[0] if key in PART_OF.values() else key


def names_of(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells each of several settings apart, such as ``searcher=paper, predictor.members=3``.

    A part's own settings are left out where the part's name says the same. No two names are the same.
    """
    keys = [k for k in differing(settings) if not told_by_its_part(settings, k)]
    of_space = [k for k in keys if k.split(".")[0] == "space"]
    many = len(of_space) > MOST_SPACE_KEYS
    spoken = [k for k in keys if not (many and k in of_space)]
    names = []
    spaces = [tuple(text_of(s, k) for k in of_space) for s in settings]
    numbers = {space: i for i, space in enumerate(dict.fromkeys(spaces), start=1)}
    for own, space in zip(settings, spaces, strict=True):
        parts = [f"{short_key(k)}={text_of(own, k)}" for k in spoken if k in own]
        if many:
            decisions = sum(k.startswith("space.decisions.") for k in own)
            parts.append(f"space {numbers[space]} ({decisions} decisions)")
        names.append(", ".join(parts) or "all settings the same")
    return names


def told_by_its_part(settings: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a part's setting has one value for each part, and is absent from some: its name is enough."""
    chooser = PART_OF.get(key.split(".")[0])
    if chooser is None or chooser == key or all(key in s for s in settings):
        return False
    values: dict[str, set[str]] = {}
    for own in settings:
        values.setdefault(text_of(own, chooser), set()).add(text_of(own, key))
    return all(len(found) == 1 for found in values.values())


class Idle(NamedTuple):
    """A setting that differs between runs without any effect."""

    key: str
    values: list[str]
    why: str
    runs: int


def idle_differences(results: Iterable[Result]) -> list[Idle]:
    """Settings that differ between runs whose searcher or fidelity rule does not read them."""
    by_reader: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        for key in result.idle:
            by_reader.setdefault((key, why_idle(result, key)), []).append(result)
    found = []
    for (key, why), members in sorted(by_reader.items()):
        values = list(dict.fromkeys(text_of(r.idle, key) for r in members))
        if len(values) > 1:
            found.append(Idle(key, values, why, len(members)))
    return found


def why_idle(result: Result, key: str) -> str:
    """Who does not read a setting."""
    chooser = PART_OF.get(key.split(".")[0])
    if chooser is None or chooser not in result.settings:
        return "it changes no outcome"
    return f"{short_key(chooser)}={text_of(result.settings, chooser)} does not read it"


def chosen(groups: Sequence[Group], reference: Sequence[str]) -> Group:
    """The group that is meant: by its letter, the folder of one of its runs, or settings ``key=value``.

    Args:
        groups: at least one.
        reference: what was written; nothing means the first group.

    Raises:
        ValueError: no group is meant, or several, with the list of all.
    """
    if not reference:
        return groups[0]
    meant = [g for g in groups if all(is_meant(g, text) for text in reference)]
    if len(meant) == 1:
        return meant[0]
    written = " ".join(f"--reference {text}" for text in reference)
    choices = "\n".join(f"  {g.letter}  {g.name}" for g in groups)
    what = "means several groups" if meant else "means no group"
    raise ValueError(
        f"{written} {what}; write a letter, the folder of a run, or settings that one group alone has:\n{choices}"
    )


def is_meant(group: Group, text: str) -> bool:
    """Whether a letter, a folder or ``key=value`` says this group."""
    if text == group.letter:
        return True
    key, equals, value = text.partition("=")
    if equals and any(
        known in (key, *([PART_OF[key]] if key in PART_OF and key != "predictor" else []))
        and text_of(group.settings, known) == value
        for known in group.settings
    ):
        return True
    return any(r.folder.resolve() == Path(text).resolve() for r in group.results)
