"""What makes a ledger one search's own: the settings that can change an outcome, and no others.

Each item of the identity is a fingerprint or the JSON text of settings by their dotted keys. A setting
that is new counts unless it is named here, and an older ledger is taken to have its default: who adds
one whose default changes outcomes must give the setting another default.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autorank.app.settings import SearchConfig, plain
from autorank.data.format.batches import Dataset
from autorank.ledger.strict_json import dumps
from autorank.space.space import Space

GROUPS = {
    "model and training": ("model", "training"),
    "searcher": ("searcher", "predictor"),
    "fidelity": ("fidelity",),
    "plan": ("search",),
}
# Where and how fast trials train, and when a failing search gives up.
NEVER = ("search.workers", "search.executor", "search.max_diverged", "training.devices")
# Settings that only some searchers and some fidelities read.
SEARCHERS = {
    **dict.fromkeys(
        ("num_exploratory", "num_local", "reward", "steps", "samples", "num_policies"),
        ("predictor",),
    ),
    **dict.fromkeys(("rate", "entropy_coef"), ("predictor", "reinforce")),
    "alphas": ("predictor", "bayes"),
    **dict.fromkeys(("population", "tournament"), ("evolution",)),
    "mutation_rate": ("evolution", "predictor", "bayes"),
    **dict.fromkeys(
        ("initial", "warps", "starts", "fit_steps", "scale_sd", "effects", "margin"), ("bayes",)
    ),
    **dict.fromkeys(("num_climbers", "climb_steps", "feasibility", "failures"), ("bayes",)),
    **dict.fromkeys(("noise_median", "noise_sd", "effect_sd", "fit_rate"), ("bayes",)),
    **dict.fromkeys(("pool", "num_parents", "near_share", "near_step"), ("bayes",)),
    **dict.fromkeys(("local_pool", "local_parents"), ("predictor",)),
}
KINDS = {
    "fraction": ("fixed",),
    **dict.fromkeys(("fractions", "trend", "tau_floor", "slack"), ("pilots",)),
    **dict.fromkeys(("rungs", "eta"), ("halving",)),
}
# Ledgers of earlier versions hold sha256 over whole groups, which then had these settings.
OLD_PLAN = (
    "trials", "seed", "metric", "noise_seeds", "final_seeds", "finalists", "workers", "max_diverged",
)  # fmt: skip
MOST_WORKERS = 1024


def identity(config: SearchConfig, space: Space, data: Dataset) -> dict[str, str]:
    """Any difference is refused on resume."""
    found = {"data": data.fingerprint(), "space": space.fingerprint()}
    return found | {item: dumps(settings(item, plain(config))) for item in GROUPS}


def settings(item: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one item that can change an outcome, by dotted key, from a whole search's."""
    kept: dict[str, Any] = {}
    for group in GROUPS[item]:
        for name, value in config[group].items():
            key = f"{group}.{name}"
            if key not in NEVER and counts(group, name, config):
                kept[key] = value
    if kept.get("search.metric") == "auto":
        kept["search.metric"] = "ctr"
    return dict(sorted(kept.items()))


def counts(group: str, name: str, config: Mapping[str, Any]) -> bool:
    """Whether the chosen searcher and fidelity read a setting."""
    searcher, kind = config["searcher"]["name"], config["fidelity"]["kind"]
    if group == "predictor":
        return searcher == "predictor"
    if group == "searcher":
        return searcher in SEARCHERS.get(name, (searcher,))
    return kind in KINDS.get(name, (kind,)) if group == "fidelity" else True


def carried_over(found: Mapping[str, str], config: SearchConfig, folder: Path) -> dict[str, str]:
    """A ledger's identity as this version would have written it for the search that made it.

    Args:
        found: the ledger's.
        config: this run's.
        folder: the run's; its ``config.yaml`` says what the fingerprints of an earlier version are
            of, and is believed only where it has them.

    What cannot be made out stays as it is, and so differs.
    """
    written, result = written_config(folder), dict(found)
    defaults = plain(SearchConfig())
    for item in GROUPS.keys() & found.keys():
        if found[item].startswith("{"):
            result[item] = dumps(filled(json.loads(found[item]), item, plain(config)))
            continue
        for candidate in candidates(item, written, plain(config)):
            whole = [candidate[group] for group in GROUPS[item]]
            before = [without_later(group, candidate[group]) for group in GROUPS[item]]
            if found[item] in {digest(g, *o) for g in (whole, before) for o in ((), ("executor",))}:
                # Settings that the earlier version did not have are at their defaults.
                full = {
                    g: defaults[g] | candidate.get(g, {}) for g in defaults if is_group(defaults[g])
                }
                known = {g: {k: v for k, v in full[g].items() if k in defaults[g]} for g in full}
                result[item] = dumps(settings(item, known))
                break
    return result


def candidates(item: str, written: dict[str, Any], config: dict[str, Any]) -> Any:
    """Whole settings that an earlier version's fingerprint may be of."""
    if all(group in written for group in ("searcher", "fidelity", *GROUPS[item])):
        yield written
    if item != "plan":
        yield config
        return
    # The number of workers was part of it.
    plan = {name: config["search"][name] for name in OLD_PLAN}
    for workers in range(1, MOST_WORKERS + 1):
        yield config | {"search": plan | {"workers": workers}}


def filled(known: dict[str, Any], item: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, with the defaults of those that are newer and without those that no longer count."""
    defaults = plain(SearchConfig())
    result = dict(known)
    for key in settings(item, config):
        group, name = key.split(".")
        result.setdefault(key, defaults[group][name])
    for key in known:
        group, name = key.split(".")
        exists = name in config.get(group, {})
        if key in NEVER or (exists and not counts(group, name, config)):
            del result[key]
    return dict(sorted(result.items()))


def without_later(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A group of settings without those that came `autorank.app.settings.later` and are at their defaults."""
    record = getattr(SearchConfig(), group)
    later = {f.name: f.default for f in dataclasses.fields(record) if f.metadata.get("later")}
    return {k: v for k, v in values.items() if k not in later or v != later[k]}


def digest(groups: list[dict[str, Any]], *leave_out: str) -> str:
    """The fingerprint that earlier versions wrote."""
    kept = [{k: v for k, v in group.items() if k not in leave_out} for group in groups]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def is_group(value: Any) -> bool:
    """Whether it is a group of settings."""
    return isinstance(value, Mapping)


def written_config(folder: Path) -> dict[str, Any]:
    """The settings that a run left in its folder; nothing where there are none that can be read."""
    import yaml

    try:
        found = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) and all(map(is_group, only_groups(found))) else {}


def only_groups(found: Mapping[str, Any]) -> list[Any]:
    """What stands where groups of settings should."""
    return [found[g] for groups in GROUPS.values() for g in groups if g in found]
