"""Tests run harsher than production: several fake devices, rank promotion raises, types checked.

They also compile cheaply, because compiling is half of what they cost: XLA leaves most optimizations out, and what one
process of a session has compiled, the others (workers, programs that tests start) load from a folder of that session.
JAX lowers programs in shared contexts; see `tests.lowering`.
A test marked ``optimized`` compiles as production does, ``optimized(False)`` excepts one from its module's mark; see
`pytest_runtest_setup`.
"""

import atexit
import gc
import os
import shutil
import tempfile
import time

# Before jax is imported anywhere: four fake CPU devices, one thread a program (bit-exact runs).
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_cpu_multi_thread_eigen=false"
    # As our own programs are compiled (autorank/base/programs.py): at two thirds of the default's cost.
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")
# One folder of compiled programs for each session, never the user's: a session starts from nothing. Workers of xdist
# and the programs that tests start inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _programs, _owner = tempfile.mkdtemp(prefix="autorank-tests-"), os.getpid()
    # A test's fork that ends as this process does must leave the folder.
    atexit.register(lambda: os.getpid() == _owner and shutil.rmtree(_programs, ignore_errors=True))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from pathlib import Path

import hypothesis
import jax
import pytest

from tests import lowering

lowering.install()
jax.config.update("jax_numpy_rank_promotion", "raise")
# A busy machine is no failure.
hypothesis.settings.register_profile("autorank", deadline=None)
hypothesis.settings.load_profile("autorank")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Doctests are looked for in tests, but not in the programs that lie beside them."""
    here = Path(__file__).parent
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if helper and here in collection_path.parents else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait come first: at the end of a session no other test would be left to fill their waits."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """The first of xdist's workers collects alone; the others find the bytecode and the programs that it has made."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return (yield)
    collected = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "collected"
    longest = time.monotonic() + 120
    while worker != "gw0" and not collected.exists() and time.monotonic() < longest:
        time.sleep(0.1)
    try:
        return (yield)
    finally:
        collected.touch()


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays to the end, so the garbage collector need not look through it again.

    New objects are looked through less often, too: tracing makes many, and few of them are in cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whether XLA optimizes is decided before any fixture compiles; programs started by the test inherit it."""
    mark = item.get_closest_marker("optimized")
    cheap = mark is None or mark.args == (False,)
    jax.config.update("jax_disable_most_optimizations", cheap)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(cheap))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, or a skip where it is absent (in CI it is there)."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("AUTORANK_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set AUTORANK_SHARED_DATA to run this test")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without any W&B set-up; whatever W&B keeps for itself stays in the test's folder."""
    for name in [n for n in os.environ if n.startswith("WANDB_") or n == "NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home" / name))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"
