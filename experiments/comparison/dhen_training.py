"""Trains the groups of a grid of DHENs on one device, in the lanes of one program for each width."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.app.settings import SearchConfig
from autorank.base.records import with_values
from autorank.data.format.batches import Dataset
from autorank.models.cost import flops_per_example
from autorank.objectives.training import ObjectiveConfig, training_objective
from autorank.population.capacity import capacity_of
from autorank.training.compact import Setting
from autorank.training.lane_pool import MAX_LANES
from autorank.training.settings import TrainingConfig
from autorank.training.step import Hparams
from experiments.comparison.dhen_work import Group, Work

TAIL = 0.25  # of the windows whose mean NE is the loss


class GridTrainer:
    """Trains groups of a grid of settings on one log; settings that the grid does not have are the defaults.

    Attributes:
        flops: forward FLOPs of a row, of each configuration.

    Raises:
        ValueError: the log has fewer steps than windows.
    """

    def __init__(
        self,
        log: Dataset,
        values: Sequence[dict[str, Any]],
        batch_size: int,
        precision: str,
        lanes: int = MAX_LANES,
    ) -> None:
        defaults = SearchConfig()
        settings = [with_values(defaults, v) for v in values]
        models, rates = [s.model for s in settings], [rates_of(s) for s in settings]
        sizes = len(log.schema.fields), len(log.schema.dense)
        of_width = {m.width: [o for o in models if o.width == m.width] for m in models}
        training = with_values(TrainingConfig(), {"batch_size": batch_size, "precision": precision})
        own = ObjectiveConfig(
            training,
            executor="population",
            max_lanes=lanes,
            at_once=len(models),
            capacities={width: capacity_of(own, *sizes) for width, own in of_width.items()},
            lane_devices=tuple(jax.local_devices()[:1]),
            state_bytes=1,  # nothing is continued
        )
        self._objective = training_objective(
            log, lambda config: Setting(models[int(config[0])], rates[int(config[0])]), own
        )
        self._count = len(models)
        self.flops = [float(flops_per_example(m, *sizes)) for m in models]

    def train(self, group: Group) -> tuple[np.ndarray, float]:
        """NE ``[p]`` of a group's models, NaN for failed runs, and wall seconds."""
        started = time.perf_counter()
        # Seeds of their own: two configurations do not share the luck of one draw.
        seeds = [group.seed * self._count + i for i in group.rows]
        configs = np.array(group.rows, np.int32)[:, None]
        found = dict(self._objective.evaluate(configs, seeds, 1.0))
        outcomes = [found[at] for at in range(len(group.rows))]
        last = round(TAIL * self._objective.num_windows)
        ne = [np.nan if o.failed else float(o.curve[-last:, 0].mean()) for o in outcomes]
        return np.array(ne), time.perf_counter() - started


def rates_of(settings: SearchConfig) -> Hparams:
    """The rates and scales of some settings, as arrays."""
    training = settings.training
    return Hparams(**{name: jnp.float32(getattr(training, name)) for name in Hparams._fields})


def train_missing(
    trainer: GridTrainer, groups: Sequence[Group], work: Work, model_rows: int, minutes: float
) -> int:
    """Trains what is missing; returns the number of groups that are left.

    Args:
        trainer: the grid's trainer.
        groups: all groups.
        work: keeps the finished groups.
        model_rows: rows of one model's pass, for the progress.
        minutes: no group starts later than this.
    """
    started = time.perf_counter()
    missing = [g for g in groups if g not in work]
    print(f"{len(groups)} groups, {len(groups) - len(missing)} there", flush=True)
    done = models = 0
    for group in missing:
        if time.perf_counter() > started + 60 * minutes:
            break
        ne, seconds = trainer.train(group)
        work.add(group, ne)
        done, models = done + 1, models + len(group.rows)
        passed = time.perf_counter() - started
        left = passed / done * (len(missing) - done)
        print(
            f"{done}/{len(missing)} seed {group.seed}, {len(group.rows)} models in {seconds:.1f} s, "
            f"{np.isnan(ne).sum()} failed, best NE {np.nanmin(ne):.5f}; {passed:.0f} s in all, "
            f"{models * model_rows / passed / 1e6:.2f} M model-rows/s with compiling, about {left:.0f} s left",
            flush=True,
        )
    if done:
        work.add_seconds(time.perf_counter() - started)
    return len(missing) - done
