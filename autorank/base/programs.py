"""Compiled programs by key, shared by threads, with the cost of compiling counted."""

import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax

LOG = logging.getLogger(__name__)

# On CPUs: one thread for each program, because programs run side by side and results are then bit-exact; and the code
# generator that compiles in 0.63 to 0.73 of the default's time, to programs as fast (experiments/speed/compile.py).
CPU_OPTIONS: dict[str, Any] = {
    "xla_cpu_multi_thread_eigen": False,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


_TRACING = threading.Lock()


def lower(function: Callable[..., Any], *shapes: Any, **options: Any) -> Any:
    """``jax.jit(function, **options).lower(*shapes)``, one thread at a time.

    Tracing is Python, so threads would only take turns and all be ready late. One after another, the first is ready
    early and compiles while the next is traced.
    """
    with _TRACING:
        return jax.jit(function, **options).lower(*shapes)


# On GPUs: matrix products by cuBLAS, untuned, and kernels that do not depend on each other side by side. Twelve random
# models of dhen_small took .29 of the default's time to compile in eight threads, and .17 of its processor time; their
# steps of 512 rows took 1.3 times as long. Large batches, where steps count for more, keep the default.
# Measured by hand; `experiments/speed/gpu_options.py` makes this comparison.
GPU_QUICK_OPTIONS: dict[str, Any] = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_autotune_level": 0,
    "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
}


@functools.cache
def compiler_options(quick: bool = True) -> dict[str, Any] | None:
    """Options for ``jax.jit(..., compiler_options=)`` on this backend; None where XLA does not know them.

    Args:
        quick: whether compiling counts for more than running, as for small batches; on a GPU these are not the same.
    """
    if jax.default_backend() == "gpu" and not quick:
        return None
    options = {"cpu": CPU_OPTIONS, "gpu": GPU_QUICK_OPTIONS}.get(jax.default_backend())
    if options is None:
        return None
    try:
        jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options=options)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        LOG.warning("compiling takes longer: XLA does not know %s: %s", options, error)
        return None
    return options


def kept_on_disk() -> bool:
    """Whether a program that was compiled once is found on disk the next time."""
    return bool(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]


class OneFirst:
    """Builds what several devices need on one of them first; safe for threads.

    JAX's cache on disk knows a GPU's program for every GPU of its kind. Devices that compile side by side find nothing
    there, and take each other's processor cores. Without the cache nobody waits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._built: dict[Hashable, threading.Event] = {}

    def build(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What ``build`` returns or raises, called once the first call with ``key`` is over."""
        with self._lock:
            is_first = key not in self._built
            built = self._built.setdefault(key, threading.Event())
        if not is_first and kept_on_disk():
            built.wait()
        try:
            return build()
        finally:
            built.set()


class ProgramStats(NamedTuple):
    """What compiling has cost so far."""

    num_compiles: int  # programs that this process built or loaded
    num_hits: int  # requests for a program that was there
    compile_seconds: float
    # Of the whole process, small programs included: loaded from JAX's cache on disk, or compiled and written there.
    disk_hits: int = 0
    disk_misses: int = 0


class DiskCounts:
    """Counts JAX's events of its cache on disk from the first use on; one for the process."""

    HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {self.HIT: 0, self.MISS: 0}
        jax.monitoring.register_event_listener(self._listen)

    def _listen(self, event: str, **_: Any) -> None:
        if event in self._counts:
            with self._lock:
                self._counts[event] += 1

    def __call__(self) -> tuple[int, int]:
        """Hits and misses so far."""
        with self._lock:
            return self._counts[self.HIT], self._counts[self.MISS]


@functools.cache
def disk_counts() -> DiskCounts:
    """The process's counter."""
    return DiskCounts()


# Programs that a cache keeps. On CPUs a training program takes over a hundred memory mappings, and Linux gives a
# process 65,530 (vm.max_map_count): LLVM ended a process that kept some 380 of them.
MOST_PROGRAMS = 150


class ProgramCache:
    """Builds the program of each key once, also when several threads ask for it at the same time.

    A program that cannot be built (out of memory, say) raises its own error; the next request tries again.

    Args:
        most: programs that are kept; the one that was not asked for the longest goes first.

    Examples:
        >>> cache = ProgramCache()
        >>> cache.get("double", lambda: jax.jit(lambda x: 2 * x))[0](3).item()
        6
        >>> cache.get("double", lambda: None)[1], cache.stats.num_hits
        (0.0, 1)
    """

    def __init__(self, most: int = MOST_PROGRAMS) -> None:
        self._most, self._lock = most, threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._programs: dict[str, Any] = {}
        self._stats = ProgramStats(0, 0, 0.0)
        self._disk_before = disk_counts()()

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._programs

    def get(self, key: str, build: Callable[[], Any]) -> tuple[Any, float]:
        """The program of ``key`` and the seconds spent on building it now (0 for a hit)."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                known = key in self._programs
                if known:
                    # The last one to go from now on.
                    program = self._programs[key] = self._programs.pop(key)
            if known:
                self._count(num_hits=1)
                return program, 0.0
            started = time.perf_counter()
            program = build()
            seconds = time.perf_counter() - started
            with self._lock:
                self._programs[key] = program
                while len(self._programs) > self._most:
                    del self._programs[next(iter(self._programs))]
            self._count(num_compiles=1, seconds=seconds)
            return program, seconds

    def _count(self, num_compiles: int = 0, num_hits: int = 0, seconds: float = 0.0) -> None:
        with self._lock:
            old = self._stats
            self._stats = ProgramStats(
                old.num_compiles + num_compiles,
                old.num_hits + num_hits,
                old.compile_seconds + seconds,
            )

    @property
    def stats(self) -> ProgramStats:
        """Counts since the cache was made."""
        hits, misses = (n - b for n, b in zip(disk_counts()(), self._disk_before, strict=True))
        with self._lock:
            return self._stats._replace(disk_hits=hits, disk_misses=misses)
