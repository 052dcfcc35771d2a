"""Whether a ledger belongs to the search that opens it."""

import json
from collections.abc import Mapping
from pathlib import Path

from autorank.ledger.errors import LedgerMismatch


def compare(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuses to continue a search with another one's ledger.

    Raises:
        LedgerMismatch: naming the first item that differs.
    """
    for item in sorted(found.keys() | wanted.keys()):
        if found.get(item) != wanted.get(item):
            raise LedgerMismatch(
                f"{path} belongs to another search: its {item} "
                f"{difference(found.get(item), wanted.get(item))}. Give this run another name, or "
                f"move the folder {path.parent} away"
            )


def difference(found: str | None, wanted: str | None) -> str:
    """What differs in an item; of settings in JSON only those that do, and of two parts only their names."""
    if found and wanted and found.startswith("{") and wanted.startswith("{"):
        try:
            old, new = json.loads(found), json.loads(wanted)
        except ValueError:
            return f"is {found!r}, this run's is {wanted!r}"
        keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
        parts = [k for k in keys if k.endswith((".name", ".kind"))]
        keys = parts or keys  # other parts have other settings
        ours, theirs = (
            ", ".join(f"{k}={json.dumps(s[k]) if k in s else '(not set)'}" for k in keys)
            for s in (new, old)
        )
        return f"has {theirs}, this run's has {ours}"
    return f"is {found!r}, this run's is {wanted!r}"
