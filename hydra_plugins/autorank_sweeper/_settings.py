"""Checks the settings of ``hydra.sweeper``, which Hydra has checked for their types only."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

LEAST = {
    "trials": 1,
    "batch_size": 1,
    "max_batch_size": 1,
    "attempts": 1,
    "initial": 1,
    "grid_size": 2,
}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as plain Python values.

    Raises:
        CompactHydraException: a value out of its range, by name.
    """
    settings: dict[str, Any] = {
        k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in given.items()
    }
    for key, least in LEAST.items():
        if settings[key] is not None and settings[key] < least:
            or_null = ", or null" if key == "max_batch_size" else ""
            raise _out_of_range(key, settings, f"must be {least} or more{or_null}")
    for key in ("alpha", "max_failure_rate"):
        if not 0 <= settings[key] <= 1:
            raise _out_of_range(key, settings, "must lie in [0, 1]")
    if settings["direction"] not in ("minimize", "maximize"):
        raise _out_of_range("direction", settings, "is not known; write minimize or maximize")
    if settings["cost_cap"] is not None and settings["cost_cap"] <= 0:
        raise _out_of_range("cost_cap", settings, "must be above 0 (times the baseline's cost)")
    return settings


def _out_of_range(key: str, settings: Mapping[str, Any], what: str) -> CompactHydraException:
    return CompactHydraException(f"hydra.sweeper.{key}={settings[key]} {what}")
