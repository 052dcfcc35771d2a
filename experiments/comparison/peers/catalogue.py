"""Which peers there are, the environment that each lives in, and the tasks of the slow ones."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]


class Environment(NamedTuple):
    """An environment that ``make_env.sh NAME`` makes."""

    module: str  # importable only there
    packages: tuple[str, ...]  # whose versions go into the provenance


class Entry(NamedTuple):
    """A peer: ``factory`` of `experiments.comparison.peers.module`, run by ``environment``."""

    module: str
    factory: str
    environment: str


ENVIRONMENTS = {
    "optuna": Environment("optuna", ("optuna", "torch", "scipy", "numpy")),
    "cmaes": Environment("cmaes", ("cmaes", "numpy")),
    "smac": Environment("smac", ("smac", "ConfigSpace", "scikit-learn", "numpy")),
    "neps": Environment(
        "neps", ("neural-pipeline-search", "botorch", "gpytorch", "torch", "numpy")
    ),
    "hebo": Environment("hebo", ("HEBO", "gpytorch", "torch", "pymoo", "scipy", "numpy")),
    "vizier": Environment(
        "vizier", ("google-vizier", "jax", "jaxlib", "equinox", "tfp-nightly", "numpy")
    ),
    "syne_tune": Environment("syne_tune", ("syne-tune", "xgboost-cpu", "scikit-learn", "numpy")),
    "ax": Environment("ax", ("ax-platform", "botorch", "gpytorch", "torch", "numpy")),
    # No peer: it evaluates the problems of `experiments.comparison.challenge`.
    "bayesmark": Environment("bayesmark", ("bayesmark", "scikit-learn", "numpy", "scipy")),
}
# Environments that share a folder: packages that live together.
FOLDERS = {"optuna": "default", "cmaes": "default", "smac": "default"}

PEERS = {
    "optuna-gp": Entry("optuna_peer", "gp", "optuna"),
    "optuna-gp-worst": Entry("optuna_peer", "gp_worst", "optuna"),
    "optuna-tpe": Entry("optuna_peer", "tpe", "optuna"),
    "catcma": Entry("cmaes_peer", "catcma", "cmaes"),
    "smac-bb": Entry("smac_peer", "black_box", "smac"),
    "smac-rf": Entry("smac_peer", "random_forest", "smac"),
    "bore": Entry("syne_tune_peer", "bore", "syne_tune"),
    "ax-init20": Entry("ax_peer", "ax", "ax"),
    "neps-bo": Entry("neps_peer", "bayesian", "neps"),
    "hebo": Entry("hebo_peer", "hebo", "hebo"),
    "vizier-gp-ucb-pe": Entry("vizier_peer", "gp_ucb_pe", "vizier"),
}

# Peers of two objectives, quality and cost: of `experiments.comparison.bench_front`.
FRONT_PEERS = {
    "optuna-nsga2": Entry("optuna_peer", "front_nsga2", "optuna"),
    "optuna-tpe": Entry("optuna_peer", "front_tpe", "optuna"),
    "optuna-gp": Entry("optuna_peer", "front_gp", "optuna"),
    "ax-nehvi": Entry("ax_peer", "ax_front", "ax"),
    "smac-parego": Entry("smac_peer", "parego", "smac"),
}

# Peers that decide how far a run goes: rules of studies at equal cost (`in_study`).
STOPPING_PEERS = {
    "optuna_hyperband": Entry("optuna_peer", "hyperband", "optuna"),
    "smac_hyperband": Entry("smac_peer", "hyperband", "smac"),
    "neps_priorband": Entry("neps_peer", "prior_band", "neps"),
}

# For peers that take over a second a suggestion: ten tasks, one of each suite and two of lcbench.
SLOW_TASKS = (
    "bars/frappe_x1",
    "dhen/kuairand",
    "fcnet/protein_structure",
    "lcbench/126026",
    "lcbench/168868",
    "mixed/0",
    "mixed_crash/0",
    "mlp/credit_g",
    "nasbench201/cifar100",
    "nb301/v2",
)


def how_to_make(environment: str) -> str:
    """The command that makes an environment.

    Examples:
        >>> how_to_make("smac"), how_to_make("ax")[-2:]
        ('sh experiments/comparison/peers/make_env.sh default', 'ax')
    """
    folder = FOLDERS.get(environment, environment)
    return f"sh experiments/comparison/peers/make_env.sh {folder}"


def interpreter(environment: str) -> str | None:
    """The Python of an environment: ``.venv-peers-FOLDER`` in ``AUTORANK_PEERS_FOLDER`` or here, else this one.

    ``None`` where neither has the package.
    """
    known = ENVIRONMENTS[environment]
    base = Path(os.environ.get("AUTORANK_PEERS_FOLDER", ROOT))
    python = base / f".venv-peers-{FOLDERS.get(environment, environment)}" / "bin" / "python"
    if python.exists():
        return str(python)
    return sys.executable if importlib.util.find_spec(known.module) else None
