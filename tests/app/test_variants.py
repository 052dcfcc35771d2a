"""Searchers of a comparison under names that say how they differ."""

from typing import Any

import pytest

from autorank.app.variants import variant, variant_names
from autorank.searchers.base import SEARCHERS


def test_a_name_is_its_settings():
    found = variant("autorank+warps=[none]+fit_rate=1e-2+fit_steps=5", 1)
    own: Any = found.settings
    assert (own.warps, own.fit_rate, own.fit_steps) == (("none",), 0.01, 5)
    assert found.name == "autorank+fit_rate=0.01+fit_steps=5+warps=[none]"
    assert variant(found.name, 1) == found


@pytest.mark.parametrize("name", list(SEARCHERS))
@pytest.mark.parametrize("batch", [1, 2, 10])
def test_every_searcher_is_itself_at_every_batch(name, batch):
    assert variant(name, batch).name == name
    assert variant(name, batch).settings.batch_size == batch


def test_the_papers_explorers_fit_into_the_batch():
    made: list[Any] = [variant("paper", n).settings for n in (1, 2, 3, 10)]
    assert [settings.num_exploratory for settings in made] == [0, 1, 2, 2]
    # What is usual at one batch is a change at another.
    assert variant("paper+num_exploratory=0", 1).name == "paper"
    assert variant("paper+num_exploratory=0", 10).name == "paper+num_exploratory=0"
    with pytest.raises(ValueError, match=r"write for example searcher\.num_exploratory=0"):
        variant("paper+num_exploratory=2", 1)


def test_equal_settings_have_one_name_and_different_ones_never_share_it():
    names = [
        "paper",
        "paper+predictor.members=1",
        "paper+predictor.members=1.0",  # no integer
        "paper+steps=50+predictor.members=1",
        "paper+predictor.members=1+steps=50",
        "paper+predictor.loss_settings.margin=0.1",
        "paper+predictor.loss=huber+predictor.loss_settings.delta=0.1",
        "paper+predictor.hidden=[5,5]",
        "paper+predictor.members=10",
    ]
    with pytest.raises(ValueError, match=r"predictor\.members=1\.0"):
        variant(names.pop(2), 10)
    found = [variant(name, 10) for name in names]
    assert found[2] == found[3] and found[-1] == found[0]
    assert len({f.name for f in found}) == len({repr(f) for f in found}) == len(names) - 2
    for each in found:
        assert variant(each.name, 10) == each


def test_shared_settings_reach_those_that_read_them():
    names = ["paper", "random", "paper+predictor.members=3", "optuna-gp", "paper+steps=9"]
    made = variant_names(names, 10, {"paper": {"steps": 9}}, {"members": 1}, ("optuna-gp",))
    assert made == [
        "paper+predictor.members=1+steps=9",
        "random",
        "paper+predictor.members=3+steps=9",  # what a name says itself wins
        "optuna-gp",
    ]


@pytest.mark.parametrize(
    ("names", "searcher", "predictor", "words"),
    [
        (["random"], {}, {"members": 10}, "predictor.members has no effect: none of"),
        (["random+predictor.members=3"], {}, {}, "predictor.members has no effect with"),
        (["random"], {"paper": {"steps": 3}}, {}, "searcher.paper has no effect"),
        (["paper"], {"paper": {"policy_steps": 3}}, {}, "searcher.policy_steps is not a setting"),
        (["random"], {"random": {"steps": 3}}, {}, "searcher.steps has no effect with"),
        (["paper"], {"paper": {"batch_size": 3}}, {}, "write searchers=.* and batch="),
        (["paper"], {"paper": {"local_pool": 3}}, {}, "no effect with searcher.num_local=0"),
        (["paper"], {"paper": {"reward": "hinge"}}, {}, r"no effect with searcher.alphas=\[0.0\]"),
        (["paper"], {}, {"loss_settings": {"delta": 1.0}}, "loss=margin does not read it"),
        (["paper+predictor.margin=1"], {}, {}, "reads predictor.loss_settings.margin"),
        (["paper"], {"paper": {"steps": "abc"}}, {}, "steps='abc'"),
        (["paper+steps=1,2"], {}, {}, "one variant for each"),
        (["paper+steps"], {}, {}, r"as \+key=value"),
        (["nobody"], {}, {}, "'nobody' is not known; write one of .*a-peer"),
        (["a-peer"], {"a-peer": {"x": 1}}, {}, "at its own defaults"),
    ],
)
def test_what_is_unknown_or_idle_is_refused(names, searcher, predictor, words):
    with pytest.raises(ValueError, match=words):
        variant_names(names, 10, searcher, predictor, ("a-peer",))


def test_a_reward_counts_once_the_cost_does():
    made = variant("paper+reward=hinge+alphas=[0.0,0.3]", 10)
    assert made.name == "paper+alphas=[0.0,0.3]+reward=hinge"
