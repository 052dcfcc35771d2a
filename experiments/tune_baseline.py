"""Tunes a baseline by hand over a stated grid; `--help` explains itself."""

import hydra
from omegaconf import DictConfig

from autorank.app.programs import CONFIGS, plain_errors, register, set_up_jax, settings
from autorank.app.settings import TuneConfig

register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="tune_baseline")
@plain_errors
def main(config: DictConfig) -> float:
    """Trains the grid and returns the best validation NE of the first metric."""
    cfg = settings(config, TuneConfig)
    set_up_jax()
    # Imported late: --help and typos must not wait for JAX.
    from autorank.app.tuning_job import run_tuning

    best = run_tuning(cfg)[0]
    return next(value for name, value in best.items() if name.startswith("validation_ne_"))


if __name__ == "__main__":
    main()
