"""Imports only go down, and the core needs neither Hydra, wandb, polars nor matplotlib."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# docs/design.md, "Layers": a module may import only from a lower number.
LAYERS = {
    "autorank": 0,
    "autorank.typing": 0,
    "autorank.grammar": 0.5,
    "autorank.jax_settings": 0,
    "autorank.program_folder": 0,
    "autorank.space": 1,
    "autorank.losses": 1,
    "autorank.metrics": 1,
    "autorank.labels": 1,
    "autorank.verdict": 1.2,
    "autorank.rungs": 1.5,
    "autorank.measurable": 1,
    "autorank.left_out": 1,
    "autorank.ledger_file": 0.5,
    "autorank.ledger": 1,
    "autorank.data": 1,
    "autorank.models": 1,
    "autorank.searchers": 1,
    "autorank.data.schema": 1,
    "autorank.data.recycled": 0,
    "autorank.data.compiled": 0,
    "autorank.data.loops_of_cells": 0.2,
    "autorank.data.loops_of_words": 0.2,
    "autorank.data.loops_of_rows": 0.2,
    "autorank.data.values": 0,
    "autorank.data.words": 0.5,
    "autorank.data.short_cells": 1,
    "autorank.data.hashing": 1,
    "autorank.data.batches": 1.5,
    "autorank.data.stream": 2,
    "autorank.data.encoders": 1.5,
    "autorank.data.source": 1,
    "autorank.data.parts": 1.5,
    "autorank.data.intake": 1.8,
    "autorank.data.vocabulary": 1.8,
    "autorank.data.arrange": 1.9,
    "autorank.searchers.base": 1.5,
    "autorank.data.store": 2,
    "autorank.models.blocks": 1.5,
    "autorank.models.embedding": 2,
    "autorank.models.small_products": 1.7,
    "autorank.models.interactions": 2,
    "autorank.models.heads": 2,
    "autorank.searchers.random_search": 2,
    "autorank.searchers.evolution": 2,
    "autorank.searchers.reinforce": 2,
    "autorank.predictor": 2,
    "autorank.pending": 2,
    "autorank.results": 0,
    "autorank.asker": 5,
    "autorank.sweep": 6,
    "autorank.cluster": 6,
    "autorank.integrations": 0,
    "autorank.integrations.optuna": 9,
    "autorank.integrations.optuna_trials": 8,
    "autorank.gaussian_process": 2,
    "autorank.searchers.acquisition": 2,
    "autorank.searchers.bayes": 3,
    "autorank.data.download": 2,
    "autorank.data.text": 2,
    "autorank.data.times": 1.6,
    "autorank.data.files": 1,
    "autorank.data.column_types": 1.2,
    "autorank.data.table_file": 2.5,
    "autorank.data.log_files": 2.7,
    "autorank.data.synthetic": 3,
    "autorank.data.criteo": 3,
    "autorank.data.avazu": 3,
    "autorank.data.criteo_like": 3,
    "autorank.data.criteo_like_text": 3.5,
    "autorank.data.table": 3,
    "autorank.data.movielens": 3.5,
    "autorank.data.kuairand": 3.5,
    "autorank.data.serving": 3.7,
    "autorank.models.dhen": 3,
    "autorank.models.architecture": 3.5,
    "autorank.models.masked": 3.7,
    "autorank.models.routes": 1,
    "autorank.models.plans": 3.5,
    "autorank.models.population_weights": 3.6,
    "autorank.models.population": 3.7,
    "autorank.fidelity": 3,
    "autorank.searchers.predictor_search": 3,
    "autorank.training": 4,
    "autorank.training.tables": 4,
    "autorank.training.programs": 4,
    "autorank.training.trainer": 4.5,
    "autorank.training.population": 4.6,
    "autorank.training.sharded": 4.6,
    "autorank.training.pipeline": 4,
    "autorank.training.groups": 4.8,
    "autorank.training.executor": 4.8,
    "autorank.training.compact": 4.9,
    "autorank.cost": 5,
    "autorank.objectives": 5.5,
    "autorank.training_jobs": 5.6,
    "autorank.training_objective": 5.7,
    "autorank.export": 5.5,
    "autorank.signatures": 5.5,
    "autorank.benchmarks": 5.5,
    "autorank.benchmarks.base": 5.7,
    "autorank.benchmarks.mixed": 5.8,
    "autorank.benchmarks.dhen": 5.8,
    "autorank.benchmarks.tables": 5.8,
    "autorank.benchmarks.yahpo": 5.8,
    "autorank.benchmarks.catalogue": 5.9,
    "autorank.stages": 6,
    "autorank.finals": 6.2,
    "autorank.confirm": 6.3,
    "autorank.survival": 6.4,
    "autorank.speed": 6.2,
    "autorank.report_verdict": 7.2,
    "autorank.search": 6.5,
    "autorank.score": 9,
    "autorank.score_file": 8.5,
    "autorank.unknown_shares": 1,
    "autorank.config": 7,
    "autorank.identity": 7.3,
    "autorank.run_folder": 6,
    "autorank.figure_style": 6,
    "autorank.figures_of_models": 6.5,
    "autorank.figures_of_verdict": 6.5,
    "autorank.figures_of_search": 6.5,
    "autorank.figures": 7,
    "autorank.report_tables": 7,
    "autorank.report": 7.5,
    "autorank.tracking": 7.5,
    "autorank.tracking_settings": 7.3,
    "autorank.progress": 7,
    "autorank.build_searchers": 7.5,
    "autorank.build": 8,
    "autorank.job": 9,
}
# They load numba, and are imported inside the functions that need them.
COMPILED = ["autorank.data.compiled", *(name for name in LAYERS if ".loops_of_" in name)]
CORE = sorted(name for name, layer in LAYERS.items() if layer < 6 and name not in COMPILED)
# What only prepares data may use the table library, inside the functions that need it.
HEAVY = ("hydra", "omegaconf", "wandb", "polars", "pyarrow", "matplotlib", "numba", "llvmlite")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> list[Path]:
    return sorted((ROOT / "autorank").rglob("*.py"))


def imported(path: Path) -> set[str]:
    known = set(LAYERS)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write absolute imports"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
    return {name for name in found if name.split(".")[0] == "autorank"}


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_only_go_down(path):
    name = module_name(path)
    assert name in LAYERS, f"{name}: give it a layer here and in docs/design.md"
    for other in imported(path):
        assert LAYERS[other] < LAYERS[name] or other == name, f"{name} imports {other}"


def test_core_imports_without_the_heavy_packages():
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    present = [name for name in CORE if (ROOT / (name.replace(".", "/") + ".py")).exists()]
    program = f"import sys\n{blocked}" + "".join(f"import {name}\n" for name in present)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
