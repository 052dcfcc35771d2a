"""Identities that earlier versions wrote into their ledgers, in the form of this version's `identity`.

Before each searcher and each fidelity rule had a record of its own, all shared one, two searchers had other names, and
still earlier an item was sha256 over whole groups of settings.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autorank.app.identity import GROUPS, NEVER, counts, settings
from autorank.app.settings import PARTS, SearchConfig
from autorank.base.records import digest, plain
from autorank.base.registry import Registry
from autorank.ledger.strict_json import dumps

# The plan's settings that the fingerprint was over.
OLD_PLAN = (
    "trials",
    "seed",
    "metric",
    "noise_seeds",
    "final_seeds",
    "finalists",
    "workers",
    "max_diverged",
)
MOST_WORKERS = 1024  # the number of workers was part of the plan's fingerprint
# The one record of all searchers, and that of all fidelity rules, with their defaults.
SHARED = {
    "searcher": {
        "name": "predictor",
        "batch_size": 10,
        "num_exploratory": 2,
        "num_local": 0,
        "alphas": [0.0, 0.1, 0.3],
        "reward": "alpha",
        "steps": 2000,
        "samples": 64,
        "rate": 0.05,
        "entropy_coef": 0.0,
        "num_policies": 1,
        "population": 20,
        "tournament": 5,
        "mutation_rate": 0.1,
        "initial": 10,
        "warps": ["half_rank"],
        "starts": [0.0],
        "fit_steps": 60,
        "scale_sd": 1.0,
        "effects": 0.5,
        "margin": 0.1,
        "num_climbers": 6,
        "climb_steps": 12,
        "feasibility": True,
        "failures": "nothing",
        "noise_median": 1e-3,
        "noise_sd": 1.5,
        "effect_sd": 1.5,
        "fit_rate": 0.1,
        "pool": 384,
        "num_parents": 8,
        "near_share": 0.75,
        "near_step": 0.1,
        "local_pool": 128,
        "local_parents": 5,
    },
    "fidelity": {
        "kind": "pilots",
        "num_pilots": 20,
        "fraction": 0.5,
        "fractions": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        "tail": 0.25,
        "trend": True,
        "tau_floor": 0.75,
        "slack": 0.05,
        "rungs": [0.2, 0.5, 1.0],
        "eta": 3.0,
    },
}


def carried_over(found: Mapping[str, str], config: SearchConfig, folder: Path) -> dict[str, str]:
    """A ledger's identity as this version would have written it for the search that made it.

    What cannot be made out stays as it is, and so differs.

    Args:
        found: the ledger's.
        config: this run's.
        folder: the run's. Its ``config.yaml`` says what fingerprints of an earlier version are of, and is believed only
            where it has them.
    """
    written, result = written_config(folder), dict(found)
    for item in GROUPS.keys() & found.keys():
        if found[item].startswith("{"):
            result[item] = dumps(completed(json.loads(found[item]), item, plain(config)))
            continue
        for candidate in candidates(item, written, plain(config)):
            if found[item] in old_digests(item, candidate):
                result[item] = dumps(settings(item, renamed(with_defaults(candidate))))
                break
    return result


def completed(known: Mapping[str, Any], item: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key under their present names, with defaults where newer, without those that do not count."""
    result = {key: renamed_value(key, value) for key, value in known.items()}
    defaults = default_groups(config)
    for key in settings(item, config):
        group, name = key.split(".")
        result.setdefault(key, defaults[group].get(name))
    for key in known:
        group, name = key.split(".")
        if key in NEVER or (exists(group, name) and not counts(group, name, config)):
            del result[key]
    return dict(sorted(result.items()))


def exists(group: str, name: str) -> bool:
    """Whether any part of a group has the setting."""
    if group in PARTS:
        return any(name in entry.fields for entry in PARTS[group].values())
    return name in search_defaults().get(group, {})


@functools.cache
def search_defaults() -> dict[str, Any]:
    """The defaults of a search's settings, to be read only."""
    return plain(SearchConfig())


def default_groups(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Defaults of every group of settings, of the parts that a search has chosen, as they were before they changed."""
    result = {k: v for k, v in search_defaults().items() if is_group(v)}
    for group, registry in PARTS.items():
        chosen = config.get(group, {}).get(registry.field)
        if chosen is not None and group in SHARED:
            result[group] = plain(registry[chosen].settings()) | done_before(
                registry[chosen].settings
            )
    return result


def done_before(record: Any) -> dict[str, Any]:
    """What was done before the settings of a record that came later and changed it."""
    later = {n: f for n, f in record.__dataclass_fields__.items() if f.metadata.get("later")}
    found = {n: f.metadata["before"] for n, f in later.items()}
    changed = {n: v for n, v in found.items() if v != later[n].default}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in changed.items()}


def with_defaults(candidate: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """An earlier version's settings; those that it did not have are at their defaults."""
    defaults = default_groups(candidate)
    full = {group: values | candidate.get(group, {}) for group, values in defaults.items()}
    return {g: {k: v for k, v in full[g].items() if exists(g, k)} for g in full}


def renamed(config: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings with the present names of parts."""
    return {
        group: {name: renamed_value(f"{group}.{name}", value) for name, value in values.items()}
        for group, values in config.items()
    }


def renamed_value(key: str, value: Any) -> Any:
    """The present name where a setting is the name of a part, else the value itself.

    Examples:
        >>> renamed_value("searcher.name", "bayes"), renamed_value("searcher.steps", 3)
        ('autorank', 3)
    """
    group, _, name = key.partition(".")
    registry = PARTS.get(group)
    if registry is None or name != registry.field:
        return value
    return registry.former.get(value, value)


def candidates(
    item: str, written: dict[str, Any], config: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Whole settings that an earlier version's fingerprint may be of."""
    if all(group in written for group in ("searcher", "fidelity", *GROUPS[item])):
        if all(written[g].get(PARTS[g].field) in names_of(PARTS[g]) for g in SHARED):
            yield written
    shared = as_shared(config)
    if item != "plan":
        yield shared
        return
    plan = {name: config["search"][name] for name in OLD_PLAN}
    for workers in range(1, MOST_WORKERS + 1):
        yield shared | {"search": plan | {"workers": workers}}


def names_of(registry: Registry[Any]) -> tuple[str, ...]:
    """Present and former names of parts."""
    return (*registry, *registry.former)


def as_shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """This run's settings as an earlier version would have held them, in the records that all parts shared."""
    result = dict(config)
    for group, shared in SHARED.items():
        registry = PARTS[group]
        former = {now: before for before, now in registry.former.items()}
        chosen = config[group][registry.field]
        result[group] = shared | config[group] | {registry.field: former.get(chosen, chosen)}
    if config["fidelity"]["kind"] != "pilots":
        result["fidelity"]["trend"] = False  # as the files of those rules set it
    result["predictor"] = {k: v for k, v in config["predictor"].items() if k != "loss_settings"}
    return result


def old_digests(item: str, candidate: Mapping[str, Any]) -> set[str]:
    """The fingerprints that earlier versions may have written for whole settings."""
    whole = [candidate[group] for group in GROUPS[item]]
    before = [without_later(group, candidate[group]) for group in GROUPS[item]]
    return {
        digest([{k: v for k, v in group.items() if k not in left_out} for group in groups])
        for groups in (whole, before)
        for left_out in ((), ("executor",))
    }


def without_later(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A group of settings without those that came `autorank.base.records.later` and are as they were before."""
    later = later_defaults(group)
    return {k: v for k, v in values.items() if k not in later or v != later[k]}


@functools.cache
def later_defaults(group: str) -> dict[str, Any]:
    """The settings of a group that came later, of any part, with what was done before them."""
    records = [entry.settings for entry in PARTS[group].values()] if group in PARTS else []
    return {
        name: field.metadata["before"]
        for record in records or [type(getattr(SearchConfig(), group))]
        for name, field in record.__dataclass_fields__.items()
        if field.metadata.get("later")
    }


def written_config(folder: Path) -> dict[str, Any]:
    """The settings that a run left in its folder; nothing where there are none that can be read."""
    import yaml

    try:
        found = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    if not isinstance(found, dict):
        return {}
    groups = [found[g] for groups in GROUPS.values() for g in groups if g in found]
    return found if all(map(is_group, groups)) else {}


def is_group(value: Any) -> bool:
    """Whether it is a group of settings."""
    return isinstance(value, Mapping)
