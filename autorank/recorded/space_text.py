"""A space as YAML text that needs nothing of this project to be read: names, choices, conditions, baseline."""

from typing import Any

import yaml

from autorank.space.decision import Decision
from autorank.space.space import Space


def space_text(space: Space) -> str:
    """The space as YAML; choice index ``i`` of a decision is the i-th of its ``choices``.

    Examples:
        >>> space = Space((Decision("depth", (1, 2)), Decision("rate", (0.1,), "number", True)), (0, 0))
        >>> space_from(space_text(space), "here") == space
        True
    """
    decisions = [
        {
            "name": d.name,
            "kind": d.kind,
            "log": d.log,
            "choices": list(d.choices),
            "active_if_any": [{"decision": name, "is_one_of": list(v)} for name, v in d.parents],
        }
        for d in space.decisions
    ]
    pairs = zip(space.decisions, space.baseline, strict=True)
    baseline = {d.name: d.choices[i] for d, i in pairs}
    return yaml.safe_dump({"decisions": decisions, "baseline": baseline}, sort_keys=False)


def space_from(text: str, where: str) -> Space:
    """The space that `space_text` wrote.

    Raises:
        ValueError: the text is no such space; the message starts with ``where``.
    """
    try:
        content = yaml.safe_load(text)
        decisions = tuple(_decision(entry) for entry in content["decisions"])
        baseline = content["baseline"]
        return Space(decisions, tuple(d.choices.index(baseline[d.name]) for d in decisions))
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{where}: this is no space ({error!r})") from error


def _decision(entry: dict[str, Any]) -> Decision:
    parents = tuple((p["decision"], tuple(p["is_one_of"])) for p in entry["active_if_any"])
    choices = tuple(entry["choices"])
    return Decision(entry["name"], choices, entry["kind"], entry["log"], parents)
