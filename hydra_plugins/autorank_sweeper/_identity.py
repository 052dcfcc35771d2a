"""The identity of a sweep. A ledger is resumed only by a sweep of the same identity."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.autorank_sweeper._space import SweptSpace

# Settings that change proposals or how results are compared; others may differ when a sweep is resumed.
OF_THE_SEARCH = ("searcher", "seed", "direction", "initial", "alpha", "cost_cap")


def identity(settings: Mapping[str, Any], swept: SweptSpace, config: DictConfig) -> dict[str, str]:
    """The parts of the identity by name; ``config`` is the app's own, composed.

    Raises:
        CompactHydraException: a file of ``hydra.sweeper.files`` cannot be read.
    """
    assert swept.space is not None
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    content = json.dumps(OmegaConf.to_container(config, resolve=False), sort_keys=True, default=str)
    return {
        "space": swept.space.fingerprint(),
        "fixed overrides": " ".join(swept.fixed.values()),
        "own config of the app": hashlib.sha256(content.encode()).hexdigest(),
        "search settings": json.dumps({name: settings[name] for name in OF_THE_SEARCH}),
        "files": json.dumps({name: digest(name) for name in settings["files"]}),
    }


def digest(name: str) -> str:
    """SHA-256 of a file.

    Raises:
        CompactHydraException: it cannot be read.
    """
    try:
        with Path(name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CompactHydraException(f"hydra.sweeper.files: cannot read {name} ({error})") from error
