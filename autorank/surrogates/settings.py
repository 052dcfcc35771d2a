"""Settings of the predictor."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autorank.base.records import require
from autorank.base.typing import Array
from autorank.surrogates.losses import LOSSES


@dataclass(frozen=True)
class PredictorConfig:
    """The ensemble that stands in for training.

    Examples:
        >>> PredictorConfig(loss="huber", loss_settings={"delta": 2.0}).loss_settings
        {'delta': 2.0}
        >>> PredictorConfig(loss_settings={"delta": 2.0})
        Traceback (most recent call last):
            ...
        ValueError: predictor.loss_settings.delta: predictor.loss=margin does not read it, but huber does
    """

    members: int = 10
    hidden: tuple[int, ...] = (50, 50)
    loss: str = "margin"  # a name of `LOSSES`
    steps: int = 500
    rate: float = 1e-3
    weight_decay: float = 1e-4
    multi_task: bool = True  # one net for NE gain and FLOPs
    bootstrap: bool = False  # each member on its own resample
    combine: str = "zscore"  # zscore, raw
    # Of the chosen loss, where they are not its defaults: predictor.loss_settings.margin=0.01
    loss_settings: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(int(h) for h in self.hidden))
        require("predictor.combine", self.combine, ("zscore", "raw"))
        object.__setattr__(self, "loss_settings", changed_settings(self.loss, self.loss_settings))


def changed_settings(loss: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a loss that are not its defaults.

    Raises:
        ValueError: an unknown loss, a setting that it does not have, or a bad value.
    """
    record = LOSSES[loss].settings
    for key in given:
        readers = [name for name, other in LOSSES.items() if key in other.fields]
        if loss not in readers:
            known = f", but {' and '.join(readers)} does" if readers else ""
            raise ValueError(
                f"predictor.loss_settings.{key}: predictor.loss={loss} does not read it{known}"
            )
    defaults = dataclasses.asdict(record())
    return {k: v for k, v in dataclasses.asdict(record(**given)).items() if v != defaults[k]}


def loss_of(name: str, loss_settings: dict[str, Any]) -> Callable[..., Array]:
    """A loss with its settings, called as ``loss(scores, targets, where=..., weights=...)``."""
    entry = LOSSES[name]
    chosen = dataclasses.asdict(entry.settings(**loss_settings))
    return partial(entry.make, **chosen) if chosen else entry.make
