"""A trial's config is composed once where its job runs in the driver's process; one that cannot be has failed."""

import os
import sys
from collections import Counter

import pytest

from autorank.ledger.ledger import Ledger
from tests import warm

# Notes what is composed for a job, by whomever.
APP = """
from pathlib import Path
import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl as Loader

compose = Loader.load_sweep_config


def noted(self, config, overrides):
    with Path(__file__).with_name("composed").open("a") as stream:
        print(*sorted(overrides), file=stream)
    return compose(self, config, overrides)


Loader.load_sweep_config = noted


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    return config.x + config.part.y


main()
"""
FILES = {
    "app.py": APP,
    "config.yaml": "defaults: [{part: good}]\nx: 0\n",
    "part/good.yaml": "y: 0.5\n",
    "part/bad.yaml": "defaults: [missing]\n",
}


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_config_is_composed_once_for_a_job_in_the_drivers_process(launcher, tmp_path):
    pytest.importorskip("joblib" if launcher == "joblib" else "hydra")
    (tmp_path / "part").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    pool = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    folder = tmp_path / "sweep"
    command = [
        sys.executable, str(tmp_path / "app.py"), "-m", "hydra/sweeper=autorank", "x=range(0,3)",
        "part=good,bad", "hydra.sweeper.trials=6", "hydra.sweeper.max_failure_rate=1",
        f"hydra.sweep.dir={folder}", *pool,
    ]  # fmt: skip
    done = warm.ended(warm.start(command, os.environ | {"JAX_PLATFORMS": "cpu"}), timeout=300)
    assert done.returncode == 0, done.stdout
    with Ledger.read(folder / "trials.db") as ledger:
        names = [d["name"] for d in ledger.get("decisions")]
        trials = ledger.trials()
    composed = Counter((tmp_path / "composed").read_text().splitlines())
    assert len(trials) == 6
    for trial in trials:
        config = dict(zip(names, trial.config, strict=True))
        bad = config["part"] == 1
        assert trial.status == ("failed" if bad else "finished")
        assert ("its config cannot be composed: In 'part/bad': Could not" in trial.reason) == bad
        times = composed[f"part={'bad' if bad else 'good'} x={config['x']}"]
        # The baseline is composed once more, before the sweep begins; one that fails in its launch, to say why.
        baseline = config == {"x": 0, "part": 0}
        if launcher == "basic":
            assert times == (2 if bad or baseline else 1)
        else:  # by the driver, so that what cannot be composed takes no worker; workers are not seen here
            assert times == (2 if baseline else 1)
            assert (folder / str(trial.id - 1)).exists() != bad
