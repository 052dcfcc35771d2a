"""The sweeper under Hydra's own test suites, and found where Hydra looks for plugins."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.version import VersionBase
from packaging.version import Version

# Hydra's suites run apps of its version base 1.1, of which it warns.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*Future Hydra versions:UserWarning")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def version_base_of_the_suites(monkeypatch):
    """Whatever app another test has imported in this process: Hydra keeps the last one's."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", Version("1.1"))


def test_hydra_finds_sweeper_and_launcher():
    # The scan imports modules a second time: compare names, not classes.
    names = {c.__name__ for c in Plugins.instance().discover(Sweeper)}
    assert "AutorankSweeper" in names
    assert "AutorankRayLauncher" in {c.__name__ for c in Plugins.instance().discover(Launcher)}


def test_nothing_heavy_is_imported_with_the_plugin():
    """Every Hydra program in the environment imports every plugin."""
    program = (
        "import sys; from hydra.core.plugins import Plugins; Plugins.instance()\n"
        "assert any('autorank_sweeper' in m for m in sys.modules)\n"
        "heavy = {'jax', 'flax', 'numpy', 'ray', 'autorank.sweep.sweep', 'autorank.ledger.ledger'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)
    worker = (
        "import sys, hydra_plugins.autorank_sweeper._job\n"  # what every worker loads
        "heavy = {'jax', 'flax', 'scipy', 'ray'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", worker], check=True, cwd=ROOT, timeout=120)


def test_the_wheel_ships_the_plugin_and_hydra_finds_it_there(tmp_path):
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(place)  # our own wheel, made a moment ago
    assert "hydra_plugins/autorank_sweeper/sweeper.py" in names
    assert "hydra_plugins/__init__.py" not in names
    program = (
        "from hydra.core.plugins import Plugins; from hydra.plugins.sweeper import Sweeper\n"
        "found = [c for c in Plugins.instance().discover(Sweeper) if c.__name__ == 'AutorankSweeper']\n"
        f"import inspect; print(inspect.getfile(found[0]).startswith({str(place)!r}))"
    )
    # Before the folder of the checkout, which an editable installation puts on the path.
    environment = os.environ | {"PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "True", done.stdout + done.stderr


@pytest.mark.parametrize("launcher_name, overrides", [("basic", ["hydra/sweeper=autorank"])])
class TestAutorankSweeper(LauncherTestSuite):
    """Hydra's contract of a sweeper."""


@pytest.mark.parametrize(
    "launcher_name, overrides",
    [("basic", ["hydra/sweeper=autorank", "hydra.sweeper.max_batch_size=2"])],
)
class TestAutorankSweeperInBatches(BatchedSweeperTestSuite):
    """Batches of two."""


@pytest.mark.parametrize("task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/sweeper=autorank"])])
class TestAutorankSweeperIntegration(IntegrationTestSuite):
    """Programs of their own."""
