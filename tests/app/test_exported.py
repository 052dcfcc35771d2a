"""What a search says of the model that it leaves."""

import numpy as np

from autorank.app.exported import usable
from tests.serving.test_export import save


def test_a_model_that_cannot_be_used_does_not_take_the_verdict_along(tmp_path, caplog):
    save(tmp_path)
    example = dict(np.load(tmp_path / "example.npz"))
    np.savez(tmp_path / "example.npz", **example | {"probabilities": 1 - example["probabilities"]})
    assert usable(tmp_path) is None
    assert "the exported model cannot be used" in caplog.text
    assert "differs from the trained model" in caplog.text
