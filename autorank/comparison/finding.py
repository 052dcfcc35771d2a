"""Which run folders a command line means: folders, folders of runs, patterns."""

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

LEDGER = "trials.db"
RESULT = "result.json"  # of a model that was trained alone
OFFLINE = "*.wandb"  # in a folder that W&B made for a session of a run
LATEST = "latest-run"  # W&B's link to one of its folders
FILES = (LEDGER, RESULT, OFFLINE)
SERVER = "wandb:"  # before the [ENTITY/]PROJECT of a W&B server
MAGIC = re.compile(r"[*?\[]")


def run_folders(places: Iterable[str]) -> list[Path]:
    """The run folders that places name, each once, in the order given and by number within a pattern or a folder.

    A place is a run's folder, its ledger, a folder of runs (such as a sweep's, or the ``wandb`` that W&B made), or a
    pattern of these (``**`` too).
    A folder that is named and holds no run is kept, so that it is reported; what only a pattern meets is not.
    """
    found: dict[Path, Path] = {}
    for place in places:
        for folder in _of_place(place):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _of_place(place: str) -> Iterator[Path]:
    # A folder may have brackets in its name: Hydra's sweeps make such names.
    is_pattern = bool(MAGIC.search(place)) and not Path(place).exists()
    matches = sorted(glob.glob(place, recursive=True), key=by_number) if is_pattern else [place]
    if not matches:
        yield Path(place)
    for match in map(Path, matches):
        if is_pattern and match.name == LATEST:
            continue
        # A sweep that a searcher drives has a ledger of its own beside those of its runs.
        below = sorted(
            {p.parent for n in FILES for p in match.glob(f"*/{n}") if p.parent.name != LATEST},
            key=by_number,
        )
        if any(match.match(name) for name in FILES) and not match.is_dir():
            yield match.parent
        elif below:
            yield from below
        # A folder that holds no run is no surprise within a pattern.
        elif any(path.is_file() for n in FILES for path in match.glob(n)) or not is_pattern:
            yield match


def by_number(path: Path | str) -> list[tuple[int, int, str]]:
    """A sorting key by which ``run-10`` comes after ``run-9``.

    Examples:
        >>> sorted(["a/10", "a/9", "a/b"], key=by_number)
        ['a/9', 'a/10', 'a/b']
    """
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p]
