"""Folders of convenience: the user's own choice counts, and one that cannot be used costs a warning only."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autorank.app.tracking import wandb_folder
from autorank.base.program_folder import program_folder, why_unusable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def blocked(tmp_path) -> Path:
    """A path below a regular file: root may write everywhere else."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


def test_the_users_own_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    own = tmp_path / "mine"
    found = program_folder("machine", environment={"JAX_COMPILATION_CACHE_DIR": str(own)})
    assert found == str(own) and own.is_dir()
    monkeypatch.chdir(tmp_path)
    found = program_folder("machine", environment={"JAX_COMPILATION_CACHE_DIR": "here"})
    assert found == str(tmp_path / "here")


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_else_the_users_cache_folder_private_and_one_for_each_machine(variable, tmp_path):
    found = program_folder("machine", environment={variable: str(tmp_path)})
    assert (
        found is not None and Path(found).name == "machine" and Path(found).is_relative_to(tmp_path)
    )
    assert Path(found).stat().st_mode & 0o77 == 0


def test_a_relative_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {"XDG_CACHE_HOME": "relative", "HOME": str(tmp_path / "home")}
    found = program_folder("machine", environment=environment)
    assert found is not None and Path(found).is_relative_to(tmp_path / "home")


@pytest.mark.parametrize("variable", ["JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "HOME"])
@pytest.mark.parametrize("place", ["below a file", "the file", "/proc/nowhere"])
def test_a_folder_that_cannot_be_used_is_a_warning(variable, place, blocked, caplog):
    folder = {"below a file": blocked, "the file": blocked.parent}.get(place, place)
    assert program_folder("machine", environment={variable: str(folder)}) is None
    [record] = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.WARNING and "\n" not in message
    assert f"{variable}: {folder}" in message and "set JAX_COMPILATION_CACHE_DIR" in message


def test_no_home_at_all_is_a_warning(monkeypatch, caplog):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert program_folder("machine", environment={}) is None
    assert "no home folder" in caplog.text


def test_an_address_without_its_package_is_a_warning_and_nothing_asked_is_silent(caplog):
    address = {"JAX_COMPILATION_CACHE_DIR": "nosuchstorage://bucket/x"}
    assert program_folder("machine", environment=address) is None
    assert "nosuchstorage://bucket/x" in caplog.text
    caplog.clear()
    assert program_folder("machine", environment={"JAX_COMPILATION_CACHE_DIR": ""}) is None
    assert not caplog.records


def test_wandb_writes_where_the_user_says_or_into_the_run(tmp_path, blocked, caplog):
    assert wandb_folder(tmp_path, {}) == tmp_path
    assert wandb_folder(tmp_path, {"WANDB_DIR": str(tmp_path / "w")}) == tmp_path / "w"
    assert not caplog.records
    assert wandb_folder(tmp_path, {"WANDB_DIR": str(blocked)}) == tmp_path
    assert f"WANDB_DIR={blocked} cannot be used" in caplog.text


def test_why_unusable_leaves_nothing_behind(tmp_path):
    assert why_unusable(tmp_path / "new") == ""
    assert list((tmp_path / "new").iterdir()) == []


def test_a_real_program_goes_on_without_any_of_its_folders(tmp_path, blocked):
    """Every folder of convenience at once lies below a file; figures are drawn and a model is trained all the same."""
    names = (
        "HOME",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "MPLCONFIGDIR",
        "NUMBA_CACHE_DIR",
        "WANDB_DIR",
        "TMPDIR",
    )
    environment = os.environ | dict.fromkeys(names, str(blocked)) | {"PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    program = (
        "import logging; logging.basicConfig()\n"
        "from autorank.app.programs import set_up_jax; set_up_jax()\n"
        "import jax; assert jax.config.jax_compilation_cache_dir is None\n"
        "print(jax.jit(lambda x: x + 1)(1))\n"
        "from autorank.report.style import panels, png_bytes; print(len(png_bytes(panels('t')[0])))\n"
        "from autorank.data.fast_text.loops.short_strings import *\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "2"
    assert done.stderr.count("compiled programs are not kept") == 1
