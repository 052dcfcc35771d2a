"""Tests run harsher than production: several fake devices, rank promotion raises, types checked."""

import os

# Before jax is imported anywhere: four fake CPU devices, one thread a program (bit-exact runs).
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_cpu_multi_thread_eigen=false",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# A busy machine is no failure.
hypothesis.settings.register_profile("autorank", deadline=None)
hypothesis.settings.load_profile("autorank")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, or a skip where it is absent (in CI it is there)."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("AUTORANK_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set AUTORANK_SHARED_DATA to run this test")
    return folder
