"""Scores other people's models beside a data set's baseline; `--help` explains itself."""

import os
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from autorank.app.composition import schema
from autorank.app.programs import CONFIGS, plain_errors, register, set_up_jax, settings
from autorank.studies.reference import ReferenceConfig

register()
ConfigStore.instance().store(name="base_reference", node=schema(ReferenceConfig))


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="reference")
@plain_errors
def main(config: DictConfig) -> None:
    """Fits and scores the models, prints a line for each and writes them."""
    cfg = settings(config, ReferenceConfig)
    set_up_jax()
    # scikit-learn's threads must not spin while others need the cores; read when OpenMP is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from autorank.app.provenance import provenance, shareable, write_rows
    from autorank.studies.reference import run_reference

    rows = run_reference(cfg)
    write_rows(
        Path(cfg.results) / f"{cfg.name}.csv", rows, {"config": shareable(cfg)} | provenance()
    )
    for row in rows:
        print(
            f"{row['data']} {row['metric']:<7}{row['model']:<15} NE {row['ne']:.5f} "
            f"(sd {row['ne_sd']:.5f})  AUC {row['auc']:.5f}"
        )


if __name__ == "__main__":
    main()
