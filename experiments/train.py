"""Trains one ranking model in one pass; `--help` explains itself."""

import hydra
import numpy as np
from omegaconf import DictConfig

from autorank.app.programs import CONFIGS, plain_errors, register, run_folder, set_up_jax, settings
from autorank.app.settings import TrainConfig

register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
@plain_errors
def main(config: DictConfig) -> float:
    """Trains, scores, saves; returns the mean NE of the first metric, so that a sweeper can drive it."""
    cfg = settings(config, TrainConfig)
    set_up_jax()
    # Imported late: --help and typos must not wait for JAX.
    from autorank.app.training_job import run_training

    result = run_training(cfg, run_folder())
    return float(np.mean([np.nan if r["failed"] else r["ne"][0] for r in result["runs"]]))


if __name__ == "__main__":
    main()
