"""The example app as its docstring says, and its sweep."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_someone_elses_script_is_swept_with_one_command(tmp_path):
    command = [
        sys.executable,
        "examples/train_digits.py",
        "-m",
        "hydra/sweeper=autorank",
        "epochs=2",
        "learning_rate=tag(log, interval(1e-3, 10))",
        "weight_decay=tag(log, interval(1e-6, 1e-1))",
        "batch_size=choice(8,32,128)",
        "features=choice(raw,squares,projected)",
        "hydra.sweeper.searcher=evolution",
        "hydra.sweeper.trials=12",
        f"hydra.sweep.dir={tmp_path}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert found["trials"] == 12 and found["best"]["quality"] <= found["baseline"]["quality"]
    assert set(found["baseline"]["overrides"]) == {
        "epochs=2", "learning_rate=0.3", "weight_decay=0.001", "batch_size=32", "features=raw",
    }  # fmt: skip  # the app's own values, though they are no grid points
    costs = [row["cost"] for row in found["front"]]
    assert costs == sorted(costs)
