"""Rebuilds the report of a finished or interrupted run; `--help` explains itself."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from autorank.app.programs import CONFIGS, register, settings
from autorank.app.settings import ReportConfig
from autorank.report.page import write_report

register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="report")
def main(config: DictConfig) -> None:
    """Writes report.html and the figures into the run's folder."""
    folder = Path(settings(config, ReportConfig).run)
    if not (folder / "trials.db").is_file():
        raise SystemExit(
            f"run={folder}: no trials.db there; give the folder of a run, for example runs/movielens"
        )
    print(write_report(folder))


if __name__ == "__main__":
    main()
