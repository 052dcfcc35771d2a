"""Trains many models in the lanes of one accelerator, one program for each width, compiled side by side."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.base.programs import ProgramCache
from autorank.models.dhen import DhenConfig
from autorank.population.capacity import capacity_of
from autorank.training.compact import Request, Setting
from autorank.training.lane_driver import LaneDriver, LaneQueue, Task
from autorank.training.lane_programs import Compiled, LanePrograms
from autorank.training.memory import Shape
from autorank.training.states import States
from autorank.training.step import Data
from autorank.training.tables import max_distinct
from autorank.training.trainer import window_ne
from experiments.speed.criteo_shaped import WINDOWS, hparams, schedule


class PopulationRun(NamedTuple):
    """Data and sizes of a run over many models."""

    data: Data
    num_ids: int
    batch_size: int
    dtype: Any

    @property
    def columns(self) -> tuple[int, int]:
        """Numbers of fields and of dense features."""
        return self.data.sparse.shape[1], self.data.dense.shape[1]

    def programs(self) -> LanePrograms:
        """What compiles lanes for these rows."""
        last = schedule(self.data, self.batch_size)
        steps = int(last.num_steps)
        return LanePrograms(
            self.data,
            last,
            Shape(*self.columns, self.num_ids, self.batch_size, WINDOWS, steps),
            ProgramCache(),
            self.dtype,
            max_distinct(np.asarray(self.data.sparse), self.batch_size),
        )

    def train(
        self, configs: Sequence[DhenConfig], seeds: Sequence[int], size: int
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Trains all models in ``size`` lanes; NE of the last quarter of windows, and seconds."""
        started, device = time.perf_counter(), jax.local_devices()[0]
        programs = self.programs()
        widths: dict[int, list[Task]] = {}
        for i, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            request = Request(np.array([i], np.int32), seed, Setting(config, hparams(None)))
            task = Task(i, request, programs.shape.num_steps)
            widths.setdefault(config.width, []).append(task)
        levels = np.full(len(configs), np.nan)
        spent = dict.fromkeys(("training", "compiling", "waiting"), 0.0)
        inputs = programs.inputs(device)

        def compile_(tasks: Sequence[Task]) -> tuple[Sequence[Task], Compiled, float]:
            models = [task.request.setting.model for task in tasks]
            lanes = min(size, len(tasks))
            return tasks, *programs.compile(capacity_of(models, *self.columns), lanes, device)

        with ThreadPoolExecutor(len(widths)) as pool:
            begun = time.perf_counter()
            for job in as_completed([pool.submit(compile_, tasks) for tasks in widths.values()]):
                tasks, compiled, seconds = job.result()
                spent["compiling"] += seconds
                spent["waiting"] += time.perf_counter() - begun
                begun = time.perf_counter()
                driver = LaneDriver(compiled, inputs, device, States(0), programs.shape.num_steps)
                for result in driver.train(LaneQueue(tasks)):
                    if result is not None and result.failed_step < 0:
                        last = window_ne(result.curve)[-WINDOWS // 4 :, 0]
                        # At toy size there are more windows than steps.
                        levels[result.task.index] = np.nanmean(last)
                driver.release()
                spent["training"] += time.perf_counter() - begun
                self._tell(tasks, compiled, time.perf_counter() - begun, seconds)
                begun = time.perf_counter()
        return levels, {"total": time.perf_counter() - started} | spent

    def _tell(
        self, tasks: Sequence[Task], compiled: Compiled, seconds: float, compiling: float
    ) -> None:
        """Prints what a width took."""
        rows = sum(task.stop for task in tasks) * self.batch_size
        temporaries = compiled.run.memory_analysis().temp_size_in_bytes
        print(
            f"  width {compiled.capacity.width}: {len(tasks)} models in {compiled.program.size} lanes, compiled in "
            f"{compiling:.0f} s, {seconds:.1f} s, {rows / seconds / 1e6:.2f} M model-rows/s, "
            f"temporaries {temporaries / 2**30:.1f} GiB",
            flush=True,
        )
