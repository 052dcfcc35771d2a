"""Folders of a sweep's jobs are named by what the jobs override."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from autorank.app.programs import CONFIGS, register
from autorank.app.sweep_folder import overridden
from autorank.base.file_names import LONGEST

ROOT = Path(__file__).resolve().parents[2]


def folder_of(program: str, *overrides: str) -> str:
    register()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose(program, list(overrides), return_hydra_config=True)
    return str(OmegaConf.select(config, "hydra.sweep.subdir"))


def test_a_longer_list_of_values_finds_the_folders_that_are_there():
    """A job's number is not in it, nor the order of the overrides, nor where the run lies and how it is watched."""
    own = ("predictor.members=3", "searcher=paper")
    first = folder_of("search", *own)
    assert first == "predictor.members-3+searcher-paper"
    others = ("hydra.job.num=7", "runs=elsewhere", "name=sizes", "tracking.mode=offline")
    assert folder_of("search", *others, *own[::-1], "search.workers=4", "backend=ray") == first
    assert folder_of("search", *own, "search.executor=population") != first
    assert folder_of("train", "model.num_layers=2") == "model.num_layers-2"


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.path=/logs/day 1.csv"],
        ["predictor.hidden=[50,50]"],
        ["space.decisions.model.width='choice(8,16)'"],
        ["data.path=" + "long/" * 100],
        ["data.path=../../ü"],
        ["+predictor.loss_settings.margin=-0.1"],
        ["name=only"],
    ],
)
def test_a_folder_is_one_safe_name_that_a_command_line_takes_as_it_is(overrides, tmp_path):
    name = overridden(overrides)
    assert "/" not in name and len(name.encode()) <= LONGEST
    (tmp_path / name).mkdir()
    read = OverridesParser.create().parse_override(f"run=runs/x/{name}")
    assert read.value() == f"runs/x/{name}" and not read.is_sweep_override()


def test_values_that_are_not_names_stay_apart():
    hidden = ["[50,50]", "(50,50)", "[50;50]", "x" * 300, "x" * 301]
    assert len({overridden([f"predictor.hidden={text}"]) for text in hidden}) == len(hidden)


def test_a_process_that_has_only_the_plugin_knows_the_resolver():
    code = (
        "import hydra_plugins.autorank_sweeper.sweeper, sys\n"
        "from omegaconf import OmegaConf\n"
        "text = OmegaConf.create({'a': '${overridden:${b}}', 'b': ['x.y=1']}).a\n"
        "sys.exit(text != 'x.y-1' or 'jax' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, timeout=60)
    assert done.returncode == 0
