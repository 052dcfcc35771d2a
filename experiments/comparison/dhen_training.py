"""Trains the groups of a grid of DHENs on one device, two groups side by side, their programs compiled ahead."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.app.settings import SearchConfig
from autorank.base.programs import ProgramCache
from autorank.base.records import with_values
from autorank.data.format.batches import Dataset
from autorank.models.cost import flops_per_example
from autorank.training.groups import Shape, bytes_per_model
from autorank.training.population_programs import PopulationPrograms
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.tables import max_distinct
from autorank.training.trainer import window_ne
from experiments.comparison.dhen_work import Group, Work

TAIL = 0.25  # of the windows whose mean NE is the loss
SIDE_BY_SIDE = 2  # groups on the device: one trains while the next one's tables are drawn


class GridTrainer:
    """Trains groups of a grid of settings on one log; settings that the grid does not have are the defaults.

    Attributes:
        sizes: device bytes of each configuration.
        flops: forward FLOPs of a row, of each configuration.

    Raises:
        ValueError: the log has fewer steps than windows.
    """

    def __init__(
        self, log: Dataset, values: Sequence[dict[str, Any]], batch_size: int, precision: str
    ) -> None:
        defaults = SearchConfig()
        settings = [with_values(defaults, v) for v in values]
        schema, self._windows = log.schema, defaults.training.num_windows
        self._num_steps = schema.num_train // batch_size
        if self._num_steps < self._windows:
            raise ValueError(
                f"--batch {batch_size}: {schema.num_train} training rows are {self._num_steps} steps, "
                f"fewer than {self._windows} windows"
            )
        fields, dense = len(schema.fields), len(schema.dense)
        shape = Shape(
            fields,
            dense,
            schema.num_ids,
            batch_size,
            self._windows,
            self._num_steps,
            schema.unknown_ids,
        )
        warmup = max(1, round(defaults.training.warmup_share * self._num_steps))
        part = log.train()
        self._models = [s.model for s in settings]
        self._rates = [rates_of(s) for s in settings]
        self._device = jax.local_devices()[0]
        self._programs = PopulationPrograms(
            on_device(part),
            Schedule(jnp.int32(self._num_steps), jnp.int32(warmup)),
            shape,
            ProgramCache(),
            dtype=jnp.dtype(precision),
            most_distinct=max_distinct(part.sparse, batch_size),
        )
        self.sizes = [bytes_per_model(m, shape) for m in self._models]
        self.flops = [float(flops_per_example(m, fields, dense)) for m in self._models]

    def compile(self, rows: Sequence[int]) -> float:
        """Compiles the program of some configurations; seconds, 0 if it was compiled before."""
        return self._compiled(rows)[2]

    def train(self, group: Group) -> tuple[np.ndarray, float]:
        """NE ``[p]`` of a group's models, NaN for failed runs, and seconds."""
        layout, program, _ = self._compiled(group.rows)
        # Seeds of their own: two configurations do not share the luck of one draw.
        seeds = [group.seed * len(self._models) + i for i in group.rows]
        models, rates = self._models_of(group.rows), [self._rates[i] for i in group.rows]
        result = self._programs.train(
            program, layout, models, seeds, rates, self._device, self._num_steps
        )
        last = window_ne(result.curves)[-round(TAIL * self._windows) :, :, 0]
        return np.where(result.failed_steps < 0, last.mean(axis=0), np.nan), result.seconds

    def _compiled(self, rows: Sequence[int]) -> tuple[Any, Any, float]:
        models = self._models_of(rows)
        layout = self._programs.layout(models)
        program, seconds = self._programs.compile(layout, models, self._device)
        return layout, program, seconds

    def _models_of(self, rows: Sequence[int]) -> list[Any]:
        return [self._models[i] for i in rows]


def rates_of(settings: SearchConfig) -> Hparams:
    """The rates and scales of some settings, as arrays."""
    training = settings.training
    return Hparams(**{name: jnp.float32(getattr(training, name)) for name in Hparams._fields})


def on_device(part: Any) -> Data:
    """The rows as a program takes them."""
    floats = (jnp.asarray(a, jnp.float32) for a in (part.dense, part.labels))
    return Data(jnp.asarray(part.sparse), *floats)


class Turns:
    """Lets `SIDE_BY_SIDE` groups train at a time; one that does not fit beside another trains alone."""

    def __init__(self, trainer: GridTrainer, end: float) -> None:
        self._trainer, self._end = trainer, end  # no group starts after ``end``
        self._places = threading.Semaphore(SIDE_BY_SIDE)
        self._alone = threading.Lock()

    def train(self, group: Group) -> tuple[Group, np.ndarray, float] | None:
        """The group, its NE and its seconds; None where there was no time left."""
        with self._places:
            if time.perf_counter() > self._end:
                return None
            try:
                return group, *self._trainer.train(group)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
        print(f"{len(group.rows)} models did not fit beside others; again, alone", flush=True)
        with self._alone:
            for _ in range(SIDE_BY_SIDE):
                self._places.acquire()
            try:
                return group, *self._trainer.train(group)
            finally:
                self._places.release(SIDE_BY_SIDE)


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
    turns = Turns(trainer, started + 60 * minutes)
    with ThreadPoolExecutor(8) as compilers, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        # One of each kind: the others find its program compiled.
        kinds = dict.fromkeys(g.rows for g in missing)
        compiling: dict[Future, tuple[int, ...]] = {
            compilers.submit(trainer.compile, rows): rows for rows in kinds
        }
        threading.Thread(target=report_compiling, args=(compiling, started), daemon=True).start()
        for future in as_completed([pool.submit(turns.train, g) for g in missing]):
            found = future.result()
            if found is None:
                continue
            group, ne, seconds = found
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


def report_compiling(compiling: dict[Future, tuple[int, ...]], started: float) -> None:
    """Prints each program when it is compiled."""
    for future in as_completed(compiling):
        if future.exception() is None and future.result():
            print(
                f"compiled for {len(compiling[future])} models in {future.result():.1f} s, "
                f"{time.perf_counter() - started:.0f} s after the start",
                flush=True,
            )
