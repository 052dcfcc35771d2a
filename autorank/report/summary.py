"""What several parts of the report read from a run's summary."""

from collections.abc import Mapping
from typing import Any

# Keys of the chosen models, with their names.
ROLES = (
    ("baseline", "baseline"),
    ("winner", "winner: lowest NE"),
    ("winner_equal_cost", "lowest NE at equal cost"),
    ("winner_equal_ne", "cheapest at equal NE"),
)


def main_metric(summary: Mapping[str, Any]) -> str:
    """The searched metric; the first task if the search took the mean of several.

    Examples:
        >>> main_metric({"metric": "mean", "tasks": ["ctr", "cvr"]})
        'ctr'
    """
    metric, tasks = summary.get("metric"), summary.get("tasks") or []
    return str(metric if metric in tasks or not tasks else tasks[0])
