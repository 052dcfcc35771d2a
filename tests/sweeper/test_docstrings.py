"""The examples in the plugin's docstrings: pytest collects those of `autorank` only."""

import doctest
import importlib

import pytest

MODULES = ("_forms", "_kept", "_overrides", "_rounds")


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"hydra_plugins.autorank_sweeper.{name}")
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0
