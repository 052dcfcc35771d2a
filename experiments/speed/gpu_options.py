"""What compiling quickly on a GPU gains and costs: random models of dhen_small as compact programs, eight threads.

    python -m experiments.speed.gpu_options             # on a GPU, 3 minutes
    python -m experiments.speed.gpu_options --small     # the same program at toy size, anywhere; nothing is written

Both sets of options compile the same models for the same rows, one set after the other; then each program trains alone.
"""

import argparse
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.programs import GPU_QUICK_OPTIONS, ProgramCache
from autorank.training import compact
from autorank.training.states import States
from experiments.machine import RESULTS
from experiments.speed.criteo_shaped import hparams, log, sample
from experiments.speed.figures import Findings, write
from experiments.speed.population_run import PopulationRun

THREADS = 8
VARIANTS: dict[str, Mapping[str, Any] | None] = {
    "XLA's options": None,
    "quick options": GPU_QUICK_OPTIONS,
}


def measure(
    variant: str, models: int, batch_size: int, num_steps: int, ids: int, found: Findings
) -> None:
    """Compiles the models, then trains each twice."""
    data, num_ids = log(batch_size * num_steps, ids)
    lanes = PopulationRun(data, num_ids, batch_size, jnp.float32).programs()
    programs = compact.CompactPrograms(
        *(data, lanes.schedule, lanes.shape, ProgramCache(), States(0), "float32"),
        lanes.most_distinct,
    )
    jax.clear_caches()
    own, configs = VARIANTS[variant], sample(models)
    with mock.patch.object(compact, "compiler_options", lambda quick: own):
        begun, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(THREADS) as pool:
            compiled = list(pool.map(programs.compile, configs))
    shape = f"{models} of dhen_small, B={batch_size}"
    found.say(shape, variant, "compile all", "s", time.perf_counter() - begun)
    found.say(
        shape, variant, "processor time of a program", "s", (time.process_time() - cpu) / models
    )
    found.say(shape, variant, "compile one, beside others", "s", *(s for _, s in compiled))
    steps = []
    for i, (model, (one, _)) in enumerate(zip(configs, compiled, strict=True)):
        setting = compact.Setting(model, hparams(None))
        requests = [compact.Request(np.array([i], np.int32), seed, setting) for seed in range(2)]
        seconds = min(programs.train(one, request, num_steps)[1] for request in requests)
        steps.append(1e3 * seconds / num_steps)
    found.say(shape, variant, "step", "ms", *steps)


def main() -> None:
    """Measures and writes ``experiments/results/bench_gpu_options.csv``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="toy size; nothing is written")
    small = parser.parse_args().small
    found = Findings("gpu_options")
    for variant in list(VARIANTS)[: 1 if small else None]:
        sizes = (2, 32, 4, 1_000) if small else (12, 512, 500, 50_000)
        measure(variant, *sizes, found)
        if not small:
            # As it comes: a machine may be taken away.
            write(RESULTS / "bench_gpu_options.csv", found.rows)


if __name__ == "__main__":
    main()
