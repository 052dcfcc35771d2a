"""Prepares a log into memory-mapped arrays; `--help` explains itself."""

import logging

import hydra
from omegaconf import DictConfig

from autorank.app import build
from autorank.app.programs import CONFIGS, plain_errors, register, settings
from autorank.app.settings import PrepareConfig

LOG = logging.getLogger("autorank")
register()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="prepare_data")
@plain_errors
def main(config: DictConfig) -> None:
    """Prepares (or finds it done) and prints what is in it."""
    data = build.dataset(settings(config, PrepareConfig).data, LOG.info)
    schema = data.schema
    print(
        f"{schema.name}: {schema.num_rows:,} rows, the first {schema.num_train:,} in time for training"
    )
    for field in schema.fields:
        print(f"  {field.name}: {field.size:,} ids")
    print(f"  dense: {', '.join(schema.dense) or 'none'}; labels: {', '.join(schema.label_names)}")
    for name, note in schema.notes.items():
        if name == "unknown_share":
            shares = {field: share for field, share in note["test"].items() if share}
            print(f"  share of held-out values that training does not know: {shares}")
        elif name != "made_from":
            print(f"  {name}: {note}")


if __name__ == "__main__":
    main()
