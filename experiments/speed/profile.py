"""Where the time of a step goes on an accelerator: input, embedding, dense, optimizer, each beside its floor.

    python -m experiments.speed.profile            # about 3 minutes on an H100, compiling included
    python -m experiments.speed.profile --small    # the same program at toy size, for any machine

Kernels come from JAX's profiler; each belongs to the phase that the compiled program's metadata names for it
(`autorank.training.trainer.PHASES`). Floors: bytes that must move at the measured bandwidth of the device, matrix FLOPs
at its measured rate. What no phase names (copies, the loop itself) is "other"; what lies between kernels is "idle".
"""

import argparse
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# Kernels inside a recorded graph have no names.
if __name__ == "__main__":  # not in a program that only reads the targets
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_command_buffer="

import jax
import jax.numpy as jnp

from autorank.models.cost import flops_per_example
from autorank.population.layouts import layout_of, tuned
from autorank.training.population import make_population
from autorank.training.step import Data
from autorank.training.tables import deduplicate
from autorank.training.trainer import PHASES, make_program
from experiments.machine import RESULTS
from experiments.speed.criteo_shaped import WINDOWS, F, N, hparams, log, sample, schedule
from experiments.speed.figures import Findings, write
from experiments.speed.population import FULL, QUICK_TO_COMPILE, SMALL
from experiments.speed.reference_networks import NAMES, matrix_rate, network


class Kernel(NamedTuple):
    """All runs of one kernel in a profile."""

    phase: str
    where: str  # its place in the program, as the compiler's metadata says
    seconds: float


class Subject(NamedTuple):
    """A compiled program to be profiled: ``advance(state, stop)`` trains up to a step."""

    shape: str
    variant: str
    text: str  # of the compiled program
    state: Any
    advance: Callable[[Any, int], Any]
    floors: Mapping[str, float]  # seconds a step, by phase


def profile(subject: Subject, warm: int, steps: int) -> tuple[list[Kernel], float]:
    """Kernels of ``steps`` steps and their wall seconds."""
    state = jax.block_until_ready(subject.advance(subject.state, warm))
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        begun = time.perf_counter()
        jax.block_until_ready(subject.advance(state, warm + steps))
        wall = time.perf_counter() - begun
        jax.profiler.stop_trace()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return kernels(jax.profiler.ProfileData.from_file(str(path)), subject.text), wall


def kernels(data: Any, text: str) -> list[Kernel]:
    """Kernels of a profile by name, the longest first; ``text`` is that of the compiled program."""
    places = dict(re.findall(r"%?([\w.\-]+) = .*metadata=\{.*?op_name=\"([^\"]*)\"", text))
    spent: defaultdict[str, float] = defaultdict(float)
    for plane in data.planes:
        if not plane.name.startswith("/device:"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                told = {name: value for name, value in event.stats}
                name = str(told.get("hlo_op") or event.name)
                spent[name] += event.duration_ns / 1e9
    found = [
        Kernel(phase_of(places.get(name, "")), places.get(name, name), s)
        for name, s in spent.items()
    ]
    return sorted(found, key=lambda k: -k.seconds)


def phase_of(place: str) -> str:
    """The innermost phase in ``jit(run)/while/body/transpose(jvp(dense))/...``."""
    named = re.findall(rf"\b({'|'.join(PHASES)})\b", place)
    return named[-1] if named else "other"


def bandwidth(seconds: float = 0.5) -> float:
    """Bytes a second, read and written, of a copy."""
    size = (1 << 28) if jax.default_backend() == "gpu" else 1 << 20
    source, copy = jnp.ones(size, jnp.float32), jax.jit(lambda x: x + 1)
    jax.block_until_ready(copy(source))
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        source = jax.block_until_ready(copy(source))
        count += 1
    return 8 * size * count / (time.perf_counter() - begun)


def floors_of(
    data: Data, batch_size: int, num_ids: int, width: int, models: int, params: Any, flops: float
) -> dict[str, float]:
    """Bytes by phase, FLOPs of the dense part under "flops"; one step of all models."""
    owner = jnp.zeros(num_ids, jnp.int32)
    touched, _ = deduplicate(data.sparse[:batch_size], owner)
    distinct = int(jnp.sum(touched.ids < num_ids))
    lookups = batch_size * F
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    # Distinct rows: read, and read and written by the update, with their accumulators; look-ups: activations written
    # in two bytes, gradients read in two.
    rows = models * distinct * 4 * (3 * width + 2)
    return {
        "input": 4 * batch_size * (F + N) + 12 * lookups,
        "embedding": rows + models * lookups * width * 4,
        "optimizer": 28 * size,  # parameters and moments read and written, the gradient read
        "flops": 3 * flops * batch_size,
    }


def population_subject(
    sizes: Mapping[str, int],
    width: int,
    count: int,
    rates: tuple[float, float],
    options: dict[str, Any] | None,
) -> Subject:
    """A group of the hundred models."""
    data, num_ids = log(sizes["sample_rows"], sizes["ids"])
    configs = [c for c in sample(100) if c.width == width][:count]
    batch_size = sizes["batch"]
    last = schedule(data, batch_size)
    layout = tuned(layout_of(configs, F, N), jax.default_backend())
    program = make_population(
        layout,
        F,
        N,
        num_ids=num_ids,
        batch_size=batch_size,
        num_windows=WINDOWS,
        dtype=jnp.bfloat16,
    )
    run = jax.jit(program.run, donate_argnums=0)
    state, route = program.start(configs, list(range(len(configs))), hparams(len(configs)))
    rest = (route, hparams(len(configs)), last, data)
    compiled = run.lower(state, *rest, jnp.int32(0)).compile(compiler_options=options)
    flops = sum(flops_per_example(c, F, N) for c in configs)
    floors = floors_of(data, batch_size, num_ids, width, len(configs), state.params, flops)
    return Subject(
        f"{len(configs)} DHENs of width {width}, V={num_ids / 1e6:.2g}M, B={batch_size}",
        "population bf16",
        compiled.as_text() or "",
        state,
        lambda state, stop: compiled(state, *rest, jnp.int32(stop)),
        seconds_of(floors, rates),
    )


def single_subject(
    sizes: Mapping[str, int], kind: str, width: int, batch_size: int, rates: tuple[float, float]
) -> Subject:
    """One large network."""
    data, num_ids = log(sizes["single_rows"], sizes["ids"])
    batch_size = min(batch_size, sizes["single_rows"] // 40)
    model, flops = network(kind)
    program = make_program(
        model, head="ctr", width=width, num_ids=num_ids, batch_size=batch_size, num_windows=2
    )
    last = schedule(data, batch_size)
    state = program.empty()
    key, rest = jax.random.key(0), (hparams(None), last, data)
    run = jax.jit(program.run, donate_argnums=1)
    compiled = run.lower(key, state, *rest, jnp.int32(0), jnp.int32(0)).compile()
    floors = floors_of(data, batch_size, num_ids, width, 1, state.params, flops)
    return Subject(
        f"{NAMES[kind]}, V={num_ids / 1e6:.2g}M, B={batch_size}",
        "one model bf16",
        compiled.as_text() or "",
        state,
        lambda state, stop: compiled(key, state, *rest, jnp.copy(state.step), jnp.int32(stop)),
        seconds_of(floors, rates),
    )


def seconds_of(floors: Mapping[str, float], rates: tuple[float, float]) -> dict[str, float]:
    """Floors in seconds from (bytes a second, matrix FLOPs a second)."""
    moved = {name: n / rates[0] for name, n in floors.items() if name != "flops"}
    return moved | {"dense": floors["flops"] / rates[1]}


def report(findings: Findings, subject: Subject, warm: int, steps: int, top: int) -> None:
    """Profiles a subject and reports its phases; prints the ``top`` longest kernels."""
    found, wall = profile(subject, warm, steps)
    spent = {name: sum(k.seconds for k in found if k.phase == name) for name in (*PHASES, "other")}
    busy = sum(spent.values())
    say = partial(findings.say, subject.shape, subject.variant)
    say("step, wall", "ms", wall / steps * 1e3)
    for name, seconds in spent.items():
        say(f"{name}", "ms", seconds / steps * 1e3)
        if name in subject.floors:
            say(f"{name}, floor", "ms", subject.floors[name] * 1e3)
    say("idle", "ms", max(0.0, wall - busy) / steps * 1e3)
    kinds: defaultdict[str, float] = defaultdict(float)
    for kernel in found:
        parts = re.findall(r"vmap\((\w+)\)", kernel.where)
        way = "backward" if "transpose(" in kernel.where else "forward"
        kinds[f"{parts[0] if parts else kernel.where.rsplit('/', 1)[-1]}, {way}"] += kernel.seconds
    for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1])[:top]:
        print(f"  {100 * seconds / max(busy, 1e-9):5.1f} % {seconds / steps * 1e6:8.0f} us  {kind}")
    print(f"  {len(found)} kernels; the longest:")
    for kernel in found[:top]:
        share = 100 * kernel.seconds / max(busy, 1e-9)
        print(
            f"  {share:5.1f} % {kernel.seconds / steps * 1e6:8.0f} us  {kernel.where}", flush=True
        )


def main() -> None:
    """Profiles the subjects and adds their rows to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--top", type=int, default=15, help="kernels to print of each")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=12, help="models of a population")
    parser.add_argument("--only", default="", help="population or single")
    parser.add_argument("--width", type=int, action="append", default=[], help="of populations")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_profile.csv")
    options = parser.parse_args()
    sizes = SMALL if options.small else FULL
    quick = QUICK_TO_COMPILE if jax.default_backend() == "gpu" else None
    findings = Findings("profile")
    rates = bandwidth(), matrix_rate()
    findings.say("copy", "jax", "bandwidth", "TB/s", rates[0] / 1e12)
    subjects: list[Callable[[], Subject]] = [
        partial(population_subject, sizes, width, options.count, rates, quick)
        for width in options.width or (8, 16, 32)
    ]
    if options.only != "population":
        subjects = subjects if not options.only else []
        for kind, width, batch_size in (("mlp", 16, 4096), ("mlp", 16, 65536), ("dcn", 128, 65536)):
            subjects.append(partial(single_subject, sizes, kind, width, batch_size, rates))
    for subject in subjects:
        report(findings, subject(), 3, options.steps, options.top)
    if not options.small:
        write(options.out, findings.rows)


if __name__ == "__main__":
    main()
