"""What the Hydra programs share: schemas, error messages, the run's folder, and how JAX is set up on this machine.

A program starts as those in ``experiments/`` do: `register` the schemas, decorate ``main`` by ``hydra.main`` and
`plain_errors`, take `settings` on its first line, then call `set_up_jax` before JAX is imported.
"""

import functools
import hashlib
import linecache
import logging
import os
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode

from autorank.app.composition import register_groups, schema, share_store
from autorank.app.composition import settings as settings
from autorank.app.settings import (
    BenchSearchConfig,
    PrepareConfig,
    RecordTableConfig,
    ReportConfig,
    SearchConfig,
    TrainConfig,
    TuneConfig,
)
from autorank.base.jax_settings import set_strict_settings
from autorank.base.program_folder import program_folder
from autorank.ledger.errors import LedgerCorrupt, LedgerFull, LedgerMismatch, RunInUse

LIBRARY = Path(__file__).resolve().parents[1]
LEDGER_ERRORS = (LedgerCorrupt, LedgerFull, LedgerMismatch, RunInUse)
CONFIGS = str(LIBRARY.parent / "configs")
T = TypeVar("T")
P = ParamSpec("P")


def of_checkout(module: str) -> Any:
    """A module of the checkout that is no part of the library, such as ``experiments.machine``.

    A program that is run as a file has its own folder on the path, and not the one above.
    """
    root = str(LIBRARY.parent)
    if root not in sys.path:
        sys.path.append(root)
    return import_module(module)


def register() -> None:
    """Puts the schemas where ``defaults: [base_search, ...]`` finds them."""
    store = ConfigStore.instance()
    records = {
        "base_search": SearchConfig,
        "base_train": TrainConfig,
        "base_prepare": PrepareConfig,
        "base_report": ReportConfig,
        "base_tune": TuneConfig,
        "base_bench_search": BenchSearchConfig,
        "base_record_table": RecordTableConfig,
    }
    for name, record in records.items():
        store.store(name=name, node=schema(record))
    register_groups()
    share_store()


class Refused(CompactHydraException):
    """A setting or a file that a job of a sweep refused; Hydra prints the message without a traceback."""


def plain_errors(main: Callable[P, T]) -> Callable[P, T]:
    """Ends a program without a traceback where this library refused a setting, a file or a ledger.

    The message says what is wrong and what to write instead. Errors raised elsewhere keep their traceback;
    ``HYDRA_FULL_ERROR=1`` shows all of them. A job of a sweep must not exit, so it raises `Refused`.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return main(*args, **kwargs)
        except (ValueError, OSError, *LEDGER_ERRORS) as error:
            if not _refused_by_us(error) or os.environ.get("HYDRA_FULL_ERROR", "") == "1":
                raise
            if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
                raise Refused(str(error)) from error
            sys.exit(f"error: {error}")

    return run


def _refused_by_us(error: BaseException) -> bool:
    """Whether a ``raise`` of this library raised the error, rather than a function that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = Path(trace.tb_frame.f_code.co_filename).resolve()
    line = linecache.getline(str(file), trace.tb_lineno)
    return LIBRARY in file.parents and line.lstrip().startswith("raise ")


def run_folder() -> Path:
    """Hydra's output folder of this run, or of this job of a sweep."""
    return Path(HydraConfig.get().runtime.output_dir)


def set_up_jax(cache: Path | None = None) -> None:
    """Sets JAX up for a program of ours; call it before JAX is first used.

    Each compiled program uses one thread, which is steadier and bit-exact on CPUs. Compiled programs are kept for the
    next run. Rank promotion and implicit transfers between devices are refused (`autorank.base.jax_settings`).

    Args:
        cache: folder of compiled programs; None asks `autorank.base.program_folder`.
    """
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax

    # These log every file and thread; the log is for what a search does.
    for name in ("jax._src.xla_bridge", "absl", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    set_strict_settings()
    jax.config.update("jax_compilation_cache_dir", program_folder(machine_key(), cache))
    for name, value in {"min_compile_time_secs": 0.3, "min_entry_size_bytes": -1}.items():
        option = f"jax_persistent_cache_{name}"
        if option.upper() not in os.environ:
            jax.config.update(option, value)


def machine_key() -> str:
    """Hash of the processor's model and features: a program compiled for one must not be loaded on another."""
    text = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += "".join(sorted({x for x in lines if x.startswith(("model name", "flags"))}))
    except OSError:
        pass  # not Linux: the architecture alone
    return hashlib.sha256(text.encode()).hexdigest()[:16]
