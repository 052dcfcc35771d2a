"""Which run folders a command line means: folders, folders of runs, patterns."""

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

LEDGER = "trials.db"
RESULT = "result.json"  # of a model that was trained alone
FILES = (LEDGER, RESULT)
MAGIC = re.compile(r"[*?\[]")


def run_folders(places: Iterable[str]) -> list[Path]:
    """The run folders that places name, each once, in the order given and by number within a pattern or a folder.

    A place is a run's folder, its ledger, a folder of runs (such as a sweep's), or a pattern of these (``**`` too).
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
        # A sweep that a searcher drives has a ledger of its own beside those of its runs.
        below = sorted({p.parent for name in FILES for p in match.glob(f"*/{name}")}, key=by_number)
        if match.name in FILES:
            yield match.parent
        elif below:
            yield from below
        # A folder that holds no run is no surprise within a pattern.
        elif any((match / name).is_file() for name in FILES) or not is_pattern:
            yield match


def by_number(path: Path | str) -> list[tuple[int, int, str]]:
    """A sorting key by which ``run-10`` comes after ``run-9``.

    Examples:
        >>> sorted(["a/10", "a/9", "a/b"], key=by_number)
        ['a/9', 'a/10', 'a/b']
    """
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p]
