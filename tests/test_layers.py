"""Imports only go down, nothing imports in a circle, and the core needs neither Hydra, wandb, polars nor matplotlib."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A package imports only from lower levels and from itself; docs/design.md, "Packages", says what each is for.
LEVELS = {
    "autorank.base": 0,
    "autorank.ledger": 0,
    "autorank.data.format": 0,
    "autorank.data.fast_text": 0,
    "autorank.space": 1,
    "autorank.models": 1,
    "autorank.data.prepare": 1,
    "autorank.fidelity": 1,
    "autorank.recorded": 2,
    "autorank.data.logs": 2,
    "autorank.population": 2,
    "autorank.surrogates": 2,
    "autorank.training": 3,
    "autorank.searchers": 3,
    "autorank.objectives": 4,
    "autorank.sweep": 4,
    "autorank.search": 5,
    "autorank.benchmarks": 5,
    "autorank.serving": 5,
    "autorank.report": 5,
    "autorank.app": 6,
    "autorank.comparison": 6,
    "autorank.studies": 7,
    "autorank.score": 7,
    "autorank.integrations": 7,
    "hydra_plugins.autorank_sweeper": 8,
}
# They load numba, and are imported inside the functions that need them.
COMPILED = ("autorank.data.fast_text.compiled", "autorank.data.fast_text.loops")
CORE_LEVEL = 5  # up to here nothing below is loaded by an import
HEAVY = (
    "hydra",
    "omegaconf",
    "wandb",
    "polars",
    "pyarrow",
    "matplotlib",
    "numba",
    "llvmlite",
    "scipy.stats",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {
    module_name(path): path
    for folder in ("autorank", "hydra_plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def package(module: str) -> str | None:
    """The longest name in `LEVELS` that the module is, or lies in; None for folders above the packages."""
    parts = module.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in names if name in LEVELS), None)


def imported(module: str) -> set[str]:
    """The modules of the project that it imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(PATHS[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: write absolute imports"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in PATHS else node.module)
    return {name for name in found if name in PATHS} - {module}


@pytest.mark.parametrize("module", PATHS)
def test_imports_only_go_down(module):
    own = package(module)
    if own is None:
        assert not imported(module), f"{module}: this package holds no code of its own"
        return
    for other in imported(module):
        theirs = package(other)
        assert theirs == own or (theirs is not None and LEVELS[theirs] < LEVELS[own]), (
            f"{module} imports {other}, which is not below it"
        )


def test_nothing_imports_in_a_circle():
    graphlib.TopologicalSorter({module: imported(module) for module in PATHS}).prepare()


def test_few_levels_and_few_modules_at_the_top():
    assert len(set(LEVELS.values())) <= 10
    assert {path.stem for path in (ROOT / "autorank").glob("*.py")} == {"__init__", "score"}


def test_core_imports_without_the_heavy_packages():
    core = [
        name
        for name in PATHS
        if (own := package(name)) is not None
        and LEVELS[own] < CORE_LEVEL
        and not name.startswith(COMPILED)
    ]
    assert len(core) > 50
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    program = f"import sys\n{blocked}" + "".join(f"import {name}\n" for name in core)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
