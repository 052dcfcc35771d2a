"""What the chosen models set differently from the baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

from autorank.ledger.run_folder import Run, values_of, winner_config
from autorank.report.markup import table
from autorank.report.numbers import NONE
from autorank.report.summary import ROLES


def decisions_table(run: Run) -> str:
    """The decisions of baseline and chosen models, one a row; rows that differ stand out."""
    columns: dict[str, Mapping[str, Any]] = {}
    for role, name in ROLES:
        config = (run.summary.get(role) or {}).get("config")
        if config is not None:
            columns[name] = config
    if not columns and run.baseline and run.decisions:
        columns["baseline"] = values_of(run.decisions, run.baseline)
        best = winner_config(run)
        if best is not None:
            columns["best so far"] = values_of(run.decisions, best)
    names = [d["name"] for d in run.decisions]
    names = names or list(dict.fromkeys(k for c in columns.values() for k in c))
    rows = []
    for name in names:
        cells = [config.get(name, NONE) for config in columns.values()]
        if any(cell != NONE for cell in cells):
            differs = len(cells) > 1 and cells[0] != cells[1]
            rows.append(("changed" if differs else "", (name, *cells)))
    return table(("decision", *columns), rows)


def difference(run: Run, config: Sequence[int]) -> str:
    """``name=value`` of the active decisions that differ from the baseline's."""
    if not run.decisions or not run.baseline:
        return NONE
    base = values_of(run.decisions, run.baseline)
    values = values_of(run.decisions, config)
    changed = {k: v for k, v in values.items() if k not in base or base[k] != v}
    return ", ".join(f"{k}={v}" for k, v in changed.items()) or "the baseline"
