"""Records a table of random configurations of a space with their whole curves; `--help` explains itself."""

import hydra
from omegaconf import DictConfig

from autorank.app.programs import CONFIGS, plain_errors, register, set_up_jax, settings
from autorank.app.settings import RecordTableConfig

register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="record_table")
@plain_errors
def main(config: DictConfig) -> int:
    """Records, merges or summarises; returns the number of runs that the table still lacks."""
    cfg = settings(config, RecordTableConfig)
    set_up_jax()
    # Imported late: --help and typos must not wait for JAX.
    from autorank.app.record_job import run_recording

    return run_recording(cfg)


if __name__ == "__main__":
    main()
