"""Tables of which a part is tested, two tables side by side, and tables with noise."""

import numpy as np
import pytest

from autorank.studies.predictor_study import PredictorStudy, refuse_too_few
from autorank.studies.records import beside, noisy, part_of
from autorank.studies.splits import split_of
from tests.studies.planted import linear, planted

TABLE = planted("linear", linear)
PART = part_of(TABLE, "a=0.4")
OWN = np.asarray(PART.configs[:, 0] == 2)


def test_a_part_is_the_configurations_with_a_value():
    assert PART.num_own == 216 and PART.name == "planted/linear where a=0.4"
    assert np.array_equal(np.asarray(PART.own), OWN)
    assert PART.fingerprint() != TABLE.fingerprint()
    with pytest.raises(ValueError, match="where='e'"):
        part_of(TABLE, "e=1")
    with pytest.raises(ValueError, match="where a='0.5'"):
        part_of(TABLE, "a=0.5")


def test_only_the_part_is_tested_and_as_many_of_it_learnt_as_said():
    def split(number):
        return split_of(PART.name, len(PART), 100, number, 0, PART.own)

    one = split(0)
    assert len(one.test) == 100 and OWN[one.test].all()
    assert sorted([*one.test, *one.rest]) == list(range(len(PART)))
    assert not np.array_equal(one.test, split(1).test)
    for num_own in (0, 20, 116):
        learnt = one.learnt(160, num_own)
        assert len(set(learnt)) == 160 and OWN[learnt].sum() == num_own
        assert not set(learnt) & set(one.test)
    # As they come: the tested records are missing from the part, so its share is 116 of 1196.
    shares = [OWN[split(n).learnt(160, None)].mean() for n in range(100)]
    assert abs(np.mean(shares) - 116 / 1196) < 0.01
    assert set(one.learnt(20, None)) < set(one.learnt(40, None))


def test_two_tables_side_by_side_test_the_first():
    both = beside(TABLE, planted("falling", lambda x: -linear(x)))
    assert len(both) == 2 * 1296 and both.num_own == 1296
    assert np.array_equal(both.quality[:1296], TABLE.quality)
    assert np.array_equal(both.configs[1296:], TABLE.configs)
    assert both.quality[1296:].min() == 0 and both.quality[1296:].argmin() != TABLE.quality.argmin()


def test_noise_is_learnt_and_not_tested():
    made = noisy(TABLE, "0.5")
    assert np.array_equal(made.quality, TABLE.quality)
    added = made.metrics[:, 0] - TABLE.metrics[:, 0]
    assert abs(added.std() / TABLE.quality.std() - 0.5) < 0.03 and abs(added.mean()) < 0.05
    assert np.array_equal(made.metrics, noisy(TABLE, "0.5").metrics)
    assert made.fingerprint() != TABLE.fingerprint()
    for scale in ("0", "-1", "nan", "much"):
        with pytest.raises(ValueError, match="write a number above 0"):
            noisy(TABLE, scale)


def test_arms_that_a_part_cannot_give_are_refused():
    def refuse(table, **arm):
        refuse_too_few(PredictorStudy(arms={"own": arm}, reference="own", num_test=100), [table])

    refuse(PART, num_own=116)
    with pytest.raises(ValueError, match="num_own=117 of num_train=160 and study.num_test=100"):
        refuse(PART, num_own=117)
    with pytest.raises(ValueError, match="216 inside and 1080 outside"):
        refuse(PART, num_own=0, num_train=1081)
    with pytest.raises(ValueError, match="planted/linear has none"):
        refuse(TABLE, num_own=0)
