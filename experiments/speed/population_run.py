"""Trains many models in groups on one accelerator, compiling the next groups while one trains."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.programs import lower
from autorank.models.dhen import DhenConfig
from autorank.population.layouts import layout_of, tuned
from autorank.training.population import make_population
from autorank.training.step import Data
from autorank.training.trainer import window_ne
from experiments.speed.criteo_shaped import WINDOWS, F, N, hparams, schedule


class Member(NamedTuple):
    """A model of the run: its place in the results, its architecture and its seed."""

    place: int
    config: DhenConfig
    seed: int


class Compiled(NamedTuple):
    """A group's program, ready to run."""

    program: Any
    run: Any
    modules: int
    seconds: float


class Trained(NamedTuple):
    """What training a group gave: NE of the last quarter of windows ``[p]``, and wall seconds."""

    ne: np.ndarray
    failed: int
    drawing: float  # of the initial tables and weights
    seconds: float  # drawing included


class PopulationRun(NamedTuple):
    """Data, sizes and compiler options of a run over many models."""

    data: Data
    num_ids: int
    batch_size: int
    dtype: Any
    options: dict[str, Any] | None  # of the compiler
    threads: int = 12  # that compile

    def train(
        self, configs: Sequence[DhenConfig], seeds: Sequence[int], size: int
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Trains all models in groups of at most ``size``; NE of the last quarter of windows, and seconds."""
        started = time.perf_counter()
        members = [Member(i, c, s) for i, (c, s) in enumerate(zip(configs, seeds, strict=True))]
        groups = groups_of(members, size)
        levels = np.zeros(len(members))
        spent = dict.fromkeys(("training", "compiling", "waiting", "drawing"), 0.0)
        with ThreadPoolExecutor(self.threads) as pool:
            jobs: list[Future] = [pool.submit(self.compile, group) for group in groups]
            left = set(range(len(groups)))
            while left:
                begun = time.perf_counter()
                while not (ready := [i for i in left if jobs[i].done()]):
                    time.sleep(0.02)
                index = ready[0]
                left.remove(index)
                group, compiled = groups[index], jobs[index].result()
                jobs[index] = Future()  # frees the program once it has run
                spent["compiling"] += compiled.seconds
                spent["waiting"] += time.perf_counter() - begun
                trained = self.train_group(group, compiled)
                spent["drawing"] += trained.drawing
                spent["training"] += trained.seconds
                levels[[member.place for member in group]] = trained.ne
                self._tell(group, compiled, trained, spent["compiling"])
                total = time.perf_counter() - started
                print(f"    {total:.0f} s in all, {len(left)} groups left", flush=True)
                del compiled
        return levels, {"total": time.perf_counter() - started} | spent

    def compile(self, group: Sequence[Member]) -> Compiled:
        """Traces and compiles a group's program."""
        begun = time.perf_counter()
        configs = [member.config for member in group]
        layout = tuned(layout_of(configs, F, N), jax.default_backend())
        program = make_population(
            layout,
            F,
            N,
            num_ids=self.num_ids,
            batch_size=self.batch_size,
            num_windows=WINDOWS,
            dtype=self.dtype,
        )
        arguments = (
            *program.shapes(configs),
            hparams(len(group)),
            schedule(self.data, self.batch_size),
            self.data,
            jnp.int32(0),
        )
        arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
        run = lower(program.run, *arguments, donate_argnums=0).compile(
            compiler_options=self.options
        )
        program.prepare(configs)
        return Compiled(program, run, layout.instances, time.perf_counter() - begun)

    def train_group(self, group: Sequence[Member], compiled: Compiled) -> Trained:
        """Draws a group's tables and weights and trains it in one pass."""
        begun = time.perf_counter()
        rates, last = hparams(len(group)), schedule(self.data, self.batch_size)
        state, routing = compiled.program.start(
            [member.config for member in group], [member.seed for member in group], rates
        )
        jax.block_until_ready(state.rows)
        drawing = time.perf_counter() - begun
        state = compiled.run(state, routing, rates, last, self.data, last.num_steps)
        curve = jax.device_get(state.curve)
        failed = int((np.asarray(state.failed_step) >= 0).sum())
        ne = window_ne(curve)[-WINDOWS // 4 :, :, 0].mean(axis=0)
        return Trained(ne, failed, drawing, time.perf_counter() - begun)

    def _tell(
        self, group: Sequence[Member], compiled: Compiled, trained: Trained, compiling: float
    ) -> None:
        """Prints the outcome of a group."""
        steps = self.data.sparse.shape[0] // self.batch_size
        rows = len(group) * steps * self.batch_size
        temporaries = compiled.run.memory_analysis().temp_size_in_bytes
        print(
            f"  group of {len(group)}: width {group[0].config.width}, {compiled.modules} modules, compiled in "
            f"{compiling:.0f} s summed, drawn in {trained.drawing:.1f} s, {trained.seconds:.1f} s, "
            f"{rows / (trained.seconds - trained.drawing) / 1e6:.2f} M model-rows/s, "
            f"temporaries {temporaries / 2**30:.1f} GiB, {trained.failed} failed",
            flush=True,
        )


def groups_of(members: Sequence[Member], size: int) -> list[list[Member]]:
    """Groups of one width and at most ``size`` models, alike in depth and tokens; what compiles soonest first.

    The shallowest models of each width are a small group of their own: the device has something to train while the
    large ones compile.
    """
    found = []
    for width in sorted({m.config.width for m in members}):
        own = [m for m in members if m.config.width == width]
        own.sort(key=lambda m: (-m.config.num_layers, m.config.num_tokens, m.config.ensemble))
        ends = [len(own)]
        if len(own) > size:
            ends.insert(0, len(own) - size // 4)
        parts = -(-ends[0] // size)
        ends = [ends[0] * i // parts for i in range(1, parts)] + ends
        found += [own[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return sorted(found, key=lambda group: sum(m.config.num_layers for m in group))
