"""What makes a ledger one search's own: the settings that can change an outcome, and no others.

Each item of the identity is a fingerprint, or the JSON text of settings by their dotted keys. A setting that is new
counts unless it is named in `NEVER`, and an older ledger is taken to have its default: who adds a setting whose default
changes outcomes must choose another default. Ledgers of earlier versions: `autorank.app.earlier_ledgers`.
"""

from collections.abc import Mapping
from typing import Any

from autorank.app.settings import PARTS, SearchConfig
from autorank.base.records import plain
from autorank.base.searched import searched
from autorank.data.format.batches import Dataset
from autorank.ledger.strict_json import dumps
from autorank.searchers.base import SEARCHERS
from autorank.space.space import Space

GROUPS = {
    "model and training": ("model", "training"),
    "searcher": ("searcher", "predictor"),
    "fidelity": ("fidelity",),
    "plan": ("search",),
}
# Where and how fast trials train, when a failing search gives up, and how long the chosen models' speed is measured.
NEVER = (
    "search.workers",
    "search.executor",
    "search.max_diverged",
    "search.qps_seconds",
    "training.devices",
)


def identity(config: SearchConfig, space: Space, data: Dataset) -> dict[str, str]:
    """The identity of a search; a run with any difference from a ledger's is refused."""
    found = {"data": data.fingerprint(), "space": space.fingerprint()}
    return found | {item: dumps(settings(item, plain(config))) for item in GROUPS}


def settings(item: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one item that can change an outcome, by dotted key.

    Args:
        item: a key of `GROUPS`.
        config: a search's settings as plain data, maybe with fields that its searcher or fidelity rule does not read.

    Examples:
        >>> settings("fidelity", plain(SearchConfig()) | {"fidelity": {"kind": "fixed", "fraction": 0.5, "eta": 3.0}})
        {'fidelity.fraction': 0.5, 'fidelity.kind': 'fixed'}
    """
    kept: dict[str, Any] = {}
    for group in GROUPS[item]:
        for name, value in config[group].items():
            key = f"{group}.{name}"
            if key not in NEVER and counts(group, name, config):
                kept[key] = value
    if "search.metric" in kept:
        kept["search.metric"] = searched(kept["search.metric"]).name
    return dict(sorted(kept.items()))


def counts(group: str, name: str, config: Mapping[str, Any]) -> bool:
    """Whether the chosen searcher or fidelity rule reads a setting."""
    if group == "predictor":
        return SEARCHERS[config["searcher"]["name"]].traits["reads_predictor"]
    if group not in PARTS:
        return True
    registry = PARTS[group]
    return name in registry[config[group][registry.field]].fields
