"""Searches as W&B has them: kept offline in a folder, or in a project of a server."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.records import flatten
from autorank.comparison.finding import OFFLINE, SERVER
from autorank.comparison.pairing import BESIDE_NE, held_out_losses
from autorank.comparison.reading import Outcome, as_points, result_of
from autorank.comparison.result import Course, LeftOut, Result, number, why
from autorank.comparison.wandb_file import WandbRun, from_server, joined, read_file

IDENTITY = "ledger_identity"  # in W&B's config
PASSES, BEST = "search/passes", "search/best_ne_gain_percent"  # in W&B's history


def is_offline(folder: Path) -> bool:
    """Whether a folder is one that W&B made for a session of a run."""
    return any(folder.glob(OFFLINE))


def read_offline(folders: Iterable[Path]) -> list[Result | LeftOut]:
    """Runs from their sessions' folders; whatever is wrong with one becomes the reason that it is left out."""
    sessions: list[WandbRun] = []
    found: list[Result | LeftOut] = []
    for path in (p for folder in folders for p in sorted(folder.glob(OFFLINE))):
        try:
            sessions.append(read_file(path))
        except (ValueError, OSError) as error:
            found.append(LeftOut(path.parent, f"{path.name} cannot be read: {error}"))
    return [*map(wandb_result, joined(sessions)), *found]


def read_projects(places: Sequence[str], api: Callable[[], Any]) -> Iterator[Result | LeftOut]:
    """The runs of projects ``wandb:[ENTITY/]PROJECT`` of a server.

    Args:
        places: as on the command line.
        api: gives a `wandb.Api`; called once.

    Raises:
        ValueError: there is no login, or the server has no such project.
    """
    server = api()
    for place in places:
        project = place.removeprefix(SERVER)
        try:
            for run in server.runs(project):
                yield wandb_result(from_server(run, f"{place}/{run.id}", (PASSES, BEST)))
        except Exception as error:  # of W&B: no such project, no answer
            raise ValueError(f"{place} cannot be read ({why(error)})") from error


def wandb_result(run: WandbRun) -> Result | LeftOut:
    """A finished search, or why a run is none."""
    place = Path(run.place)
    # A run of somebody else's that a search was logged into has our settings under one key.
    config = run.config.get("autorank", run.config)
    summary = flatten(run.summary)
    if not isinstance(config, Mapping) or IDENTITY not in config:
        reason = f"its W&B config has no {IDENTITY}: another program's, or an earlier version's"
        return LeftOut(place, f"{reason}; give the run's folder instead")
    if summary.get("status") != "finished":
        return LeftOut(place, "W&B has no summary of a finished search")
    own = {k: v for k, v in config.items() if k not in (IDENTITY, "_wandb")}
    try:
        return result_of(outcome(place, run, summary), config[IDENTITY], flatten(own))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return LeftOut(place, f"its summary or settings are of another format ({why(error)})")


def outcome(place: Path, run: WandbRun, summary: Mapping[str, Any]) -> Outcome:
    """What W&B has of a search: the course as it was seen while the search ran, all else as in the run's folder."""
    rows = [row for row in run.history if PASSES in row and BEST in row]
    course = np.array([[row[PASSES], row[BEST]] for row in rows], np.float64).reshape(-1, 2)
    front = [summary.get(f"front.{name}", []) for name in ("flops_ratio", "quality")]
    values = {
        "gain": number(summary.get("ne_gain_percent.mean")),
        "label": float(course[-1, 1]) if len(course) else math.nan,
        "ne": number(summary.get("winner.ne")),
        **held_out_losses(
            {m: summary.get(f"winner.measures.{summary.get('metric')}.{m}") for m in BESIDE_NE}
        ),
    }
    return Outcome(
        place,
        dict(summary),
        values,
        Course(course[:, 0], course[:, 1]),
        as_points([*zip(*front, strict=True)]),
    )
