"""The user's app as Hydra composes it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class App(NamedTuple):
    """An app's config, and the loader that composes it for each job."""

    loader: ConfigLoader
    config: DictConfig

    def compose(self, overrides: Sequence[str] = ()) -> DictConfig:
        """The config of a job with these overrides.

        Raises:
            HydraException: Hydra refuses them; an app's own resolvers may raise anything.
        """
        return self.loader.load_sweep_config(self.config, list(overrides))

    def compose_without_overrides(self) -> DictConfig | None:
        """The app's own config; None if it cannot be composed without an override."""
        try:
            return self.compose()
        except HydraException:
            return None


def own_value(key: str, config: DictConfig) -> Any:
    """The value at an override's key in the app's own config; None if there is none."""
    try:
        return OmegaConf.select(config, key.lstrip("+~").split("@")[0].replace("/", "."))
    except OmegaConfBaseException:
        return None


def first_line_of(error: BaseException) -> str:
    """The first line of an error of Hydra or OmegaConf."""
    return (str(error).splitlines() or [type(error).__name__])[0]
