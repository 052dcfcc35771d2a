"""Settings of the predictor, and of its losses."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autorank.base.records import require
from autorank.surrogates.losses import LOSSES, Loss


@dataclass(frozen=True)
class PredictorConfig:
    """Settings of the ensemble that stands in for training.

    Examples:
        >>> PredictorConfig(loss="huber", loss_settings={"delta": 2.0}).loss_settings
        {'delta': 2.0}
        >>> PredictorConfig(loss_settings={"delta": 2.0})
        Traceback (most recent call last):
            ...
        ValueError: predictor.loss_settings.delta: predictor.loss=margin does not read it, but huber does
    """

    members: int = 10  # nets whose scores are averaged
    hidden: tuple[int, ...] = (50, 50)  # widths of the layers that both tasks share
    loss: str = "margin"  # a name of `LOSSES`
    steps: int = 500  # full-batch Adam steps
    rate: float = 1e-3  # Adam's step size
    weight_decay: float = 1e-4  # decoupled (AdamW)
    multi_task: bool = True  # one net for NE gain and FLOPs, or one net for each
    bootstrap: bool = False  # every member trains on its own resample of the rows
    # zscore standardises the outputs of each member; raw leaves them as they are (for mse and huber: in the units of
    # the targets).
    combine: str = "zscore"
    # Settings of the chosen loss that differ from its defaults: predictor.loss_settings.margin=0.01
    loss_settings: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(int(h) for h in self.hidden))
        require("predictor.combine", self.combine, ("zscore", "raw"))
        object.__setattr__(self, "loss_settings", changed_settings(self.loss, self.loss_settings))


def changed_settings(loss: str, given: dict[str, Any]) -> dict[str, Any]:
    """The given settings of a loss that differ from its defaults.

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


def loss_of(name: str, loss_settings: dict[str, Any]) -> Loss:
    """The loss with its settings applied."""
    entry = LOSSES[name]
    chosen = dataclasses.asdict(entry.settings(**loss_settings))
    return partial(entry.make, **chosen) if chosen else entry.make
