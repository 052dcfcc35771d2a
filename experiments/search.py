"""Finds a better ranking model than the baseline; `--help` explains itself."""

import logging

import hydra
from omegaconf import DictConfig

from autorank.app.programs import CONFIGS, plain_errors, register, run_folder, set_up_jax, settings
from autorank.app.settings import SearchConfig

LOG = logging.getLogger("autorank")
register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="search")
@plain_errors
def main(config: DictConfig) -> float:
    """Runs or resumes the search and returns the winner's NE gain in percent, so that a sweeper can drive it."""
    cfg = settings(config, SearchConfig)
    set_up_jax()
    # Imported late: --help and typos must not wait for JAX.
    from autorank.app.search_job import run_search

    summary = run_search(cfg, run_folder())
    gain = summary["ne_gain_percent"]
    return float("nan") if gain is None else gain["mean"]


if __name__ == "__main__":
    main()
