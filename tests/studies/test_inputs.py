"""Inputs against arithmetic, and against the features of a space."""

import numpy as np
import pytest

from autorank.space.space import Decision, Space
from autorank.studies.inputs import CENTRES, InputConfig, encoder

SPACE = Space(
    (
        Decision("kind", ("a", "b", "c")),
        Decision("width", (8, 16, 64), "number", True, (("kind", ("b", "c")),)),
        Decision("depth", (1, 2, 5), "number"),
    ),
    (1, 0, 0),
)
CONFIGS = SPACE.enumerate(100)
WIDTH, DEPTH = {8: 0.0, 16: 1 / 3, 64: 1.0}, {1: 0.0, 2: 0.25, 5: 1.0}


def seen(**settings):
    return np.asarray(encoder(InputConfig(**settings), SPACE)(CONFIGS))


def test_the_default_is_the_features_of_the_space():
    assert len(CONFIGS) == 3 * (1 + 2 * 3)
    assert np.array_equal(seen(), SPACE.features(CONFIGS))


def test_numbers_as_written():
    for values, row in zip(map(SPACE.decode, CONFIGS), seen(number="square"), strict=True):
        x = DEPTH[values["depth"]]
        w = WIDTH[values["width"]] if "width" in values else 0.0
        assert np.allclose(row, [*(values["kind"] == k for k in "abc"), w, w**2, x, x**2])
    basis = seen(number="basis")
    assert basis.shape[1] == 3 + 2 * CENTRES
    for values, row in zip(map(SPACE.decode, CONFIGS), basis, strict=True):
        apart = DEPTH[values["depth"]] - np.arange(CENTRES) / 6
        assert np.allclose(row[-CENTRES:], np.exp(-((apart * 6) ** 2) / 2))
        if "width" not in values:
            assert not row[3 : 3 + CENTRES].any()
    one_hot = seen(number="one_hot")
    assert np.array_equal(one_hot[:, -3:], np.eye(3)[CONFIGS[:, 2]])


def test_a_flag_says_whether_a_decision_has_a_meaning():
    flagged = seen(conditional="flag")
    has_width = [float("width" in SPACE.decode(c)) for c in CONFIGS]
    assert flagged.shape[1] == SPACE.num_features + 1  # the only condition is the width's
    assert np.array_equal(flagged[:, 4], has_width)
    assert np.array_equal(np.delete(flagged, 4, axis=1), seen())


def test_centred_columns_have_the_mean_0_over_choices():
    centred = seen(centred=True)
    assert np.allclose(centred[:, 4], [DEPTH[SPACE.decode(c)["depth"]] - 1.25 / 3 for c in CONFIGS])
    # What has no meaning is the mean.
    without = [i for i, c in enumerate(CONFIGS) if "width" not in SPACE.decode(c)]
    assert not centred[without, 3].any()
    assert np.allclose(centred[:, :3], np.eye(3)[CONFIGS[:, 0]] - 1 / 3)


def test_unknown_inputs_are_refused():
    with pytest.raises(ValueError, match="input.number='floats'"):
        InputConfig(number="floats")
    with pytest.raises(ValueError, match="input.conditional='nan'"):
        InputConfig(conditional="nan")
