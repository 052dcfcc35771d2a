"""Model-rows a second of ten random models of dhen_small, or more, in the lanes of one program; compile time included.

    python -m experiments.speed.lanes             # on an accelerator, 8 minutes
    python -m experiments.speed.lanes --small     # the same program at toy size; nothing is written

One program for one width and one for all widths (as a search with small batches has); rows are Criteo-shaped.
"""

import argparse
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.models.dhen import DhenConfig
from autorank.population.capacity import Capacity, capacity_of, widest
from autorank.population.spaces import capacities_of
from autorank.training.device_lanes import DeviceLanes
from experiments.machine import RESULTS
from experiments.speed.criteo_shaped import MODULES, SPACE, F, N, hparams, log, sample
from experiments.speed.figures import Findings, Target, write
from experiments.speed.population_run import PopulationRun

RATE = "million model-rows/s while training"
WIDTH = 16


class Case(NamedTuple):
    """One program."""

    batch_size: int
    precision: str
    all_widths: bool
    lanes: int = 10
    fields: int = F
    dense: int = N

    def __str__(self) -> str:
        widths = "all widths" if self.all_widths else f"width {WIDTH}"
        log = "" if self.fields == F else f", {self.fields} fields"
        return f"{self.lanes} of dhen_small, {widths}, B={self.batch_size}{log}"


CASES = [
    Case(4096, "bfloat16", False),
    Case(4096, "float32", False),
    Case(512, "float32", True),
    Case(512, "float32", False),
    *(Case(512, p, True, lanes) for lanes in (20, 32) for p in ("float32", "bfloat16")),
    # As the searches of 2M synthetic rows and of KuaiRand are.
    *(Case(512, p, True, 20, 12, 3) for p in ("float32", "bfloat16")),
    Case(128, "float32", True, 32, 37, 7),
]
BOUNDS = {(str(case), "lanes " + case.precision, RATE): Target(6.0) for case in CASES[:1]}


def space_capacity(case: Case) -> Capacity:
    """What a program for the whole space holds, for one width or for all."""
    widths = SPACE["width"] if case.all_widths else (WIDTH,)
    choices: dict[str, tuple[Any, ...]] = SPACE | {
        "num_layers": (1, 2, 3, 4),
        "width": tuple(widths),
    }
    for layer in range(1, 5):
        choices |= {f"layer{layer}.a": MODULES, f"layer{layer}.b": ("none", *MODULES)}
    return widest(
        capacities_of(choices, DhenConfig(width=widths[0]), case.fields, case.dense).values()
    )


def models_of(case: Case) -> list[DhenConfig]:
    """Random models, of one width or of all."""
    found = sample(100)
    return [c for c in found if case.all_widths or c.width == WIDTH][: case.lanes]


def measure(case: Case, rows: int, ids: int, steps: int, found: Findings) -> None:
    """Compiles a program and times dispatches of it."""
    data, num_ids = log(rows, ids)
    column = jnp.arange(case.fields) % F
    data = data._replace(sparse=data.sparse[:, column], dense=data.dense[:, : case.dense])
    run = PopulationRun(data, num_ids, case.batch_size, jnp.dtype(case.precision))
    programs, device = run.programs(), jax.local_devices()[0]
    models = models_of(case)
    capacity = widest([space_capacity(case), capacity_of(models, case.fields, case.dense)])
    compiled, compiling = programs.compile(capacity, len(models), device)
    lanes = DeviceLanes(compiled, programs.inputs(device), device)
    begun = time.perf_counter()
    for at, config in enumerate(models):
        lanes.load(at, config, hparams(None), lanes.start(config, at, hparams(None)))
    loading = (time.perf_counter() - begun) / len(models)
    stops = dict.fromkeys(range(len(models)), programs.shape.num_steps)
    lanes.run(stops, 2)
    rates = []
    for _ in range(3):
        begun = time.perf_counter()
        lanes.run(stops, steps)
        rates.append(steps * len(models) * case.batch_size / (time.perf_counter() - begun) / 1e6)
    shape, variant = str(case), f"lanes {case.precision}"
    found.say(shape, variant, RATE, "M/s", *rates)
    found.say(shape, variant, "compile", "s", compiling)
    found.say(shape, variant, "put a new model into a lane", "s", loading)
    lanes.forget()


def main() -> None:
    """Measures and writes ``experiments/results/bench_lanes.csv``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="toy size; nothing is written")
    parser.add_argument(
        "--only", default="", help="part of the names of the cases that are measured"
    )
    arguments = parser.parse_args()
    small, found = arguments.small, Findings("lanes")
    cases = [case for case in CASES if arguments.only in f"{case}, {case.precision}"]
    for case in CASES[2:3] if small else cases:
        steps, batch_size = (2, 32) if small else (max(30, 40_960 // case.batch_size), 0)
        case = case._replace(batch_size=batch_size or case.batch_size)
        rows = case.batch_size * (4 * steps + 8)
        measure(case, rows, 1_000 if small else 200_000, steps, found)
        if not small:
            # As it comes: a machine may be taken away.
            write(RESULTS / "bench_lanes.csv", found.rows)


if __name__ == "__main__":
    main()
