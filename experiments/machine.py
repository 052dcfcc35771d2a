"""Where results lie and what measured them: the processor or accelerator, versions, the revision of the code."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autorank.base.code_revision import code_revision

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
PACKAGES = ("jax", "jaxlib", "numpy", "numba", "torch", "fuxictr", "polars", "pandas", "pyarrow")


def device_name() -> str:
    """The first NVIDIA accelerator if there is one, else the processor."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        if text:
            return text.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        pass
    return processor_name()


def processor_name() -> str:
    """The processor, of which one core is used."""
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else ():
        if line.startswith("model name"):
            return f"1 core of {line.split(':', 1)[1].strip()}"
    return platform.processor() or platform.machine()


def versions() -> str:
    """Versions of Python and of the measured packages, in one cell of a table."""
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def revision() -> str:
    """The commit, with a plus if the code differs from it; ``BENCH_REVISION`` where there is no repository."""
    return os.environ.get("BENCH_REVISION") or code_revision() or "unknown"
