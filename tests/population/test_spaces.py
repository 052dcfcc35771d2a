"""One capacity for each width holds every model of a space, and is no larger than its models need."""

from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from autorank.app.settings import SearchConfig
from autorank.base.records import value_at, with_values
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.population.capacity import capacity_of, misfit, widest
from autorank.population.spaces import capacities_of
from autorank.space.parse import parse_space

SPACES = Path(__file__).resolve().parents[2] / "configs" / "space"
BASE = DhenConfig(**{f"layer{i}": LayerConfig("dot") for i in range(1, 9)})  # pyright: ignore[reportArgumentType]
F, N = 26, 13


@pytest.mark.parametrize("name", ["dhen_small", "dhen"])
def test_every_model_of_a_space_fits_and_nothing_is_too_large(name):
    raw = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    base = SearchConfig(model=BASE)
    space = parse_space(
        raw["decisions"],
        raw["conditions"],
        {key: value_at(base, key) for key in raw["decisions"]},
        grid_size=raw["grid_size"],
    )
    prefix = "model."
    choices = {
        d.name.removeprefix(prefix): d.choices for d in space.decisions if d.name.startswith(prefix)
    }
    found = capacities_of(choices, BASE, F, N)
    assert set(found) == set(choices["width"])
    sample = np.asarray(space.sample(jax.random.key(0), 300))
    models = [with_values(base, space.decode(c, inactive=True)).model for c in sample]
    assert {misfit(found[m.width], m) for m in models} == {""}
    for width, capacity in found.items():
        assert widest(capacity_of([m], F, N) for m in models if m.width == width) == capacity


def every(choices: dict[str, tuple], base: DhenConfig) -> list[DhenConfig]:
    configs = [base]
    for name, values in choices.items():
        configs = [with_values(c, {name: v}) for c in configs for v in values]
    return configs


@pytest.mark.parametrize(
    "choices",
    [
        {"layer1.a": ("none", "dot"), "layer1.b": ("none", "linear"), "num_tokens": (2, 3)},
        {"ensemble": ("concat", "sum"), "layer1.b": ("none", "fmb"), "num_tokens": (3,)},
        {"ensemble": ("concat", "weighted"), "norm": ("pre", "none"), "layer1.b": ("linear",)},
        {"num_layers": (1, 2, 3), "layer3.a": ("attention", "none"), "heads": (1, 2)},
        {"num_layers": (1,), "layer2.a": ("mask",), "rank": (2, 4), "layer1.a": ("cross_low",)},
        {},
    ],
)
def test_it_is_exactly_what_all_combinations_need(choices):
    base = DhenConfig(width=4, num_layers=1, layer1=LayerConfig("dot"), num_tokens=2)
    expected = widest(capacity_of([c], 4, 2) for c in every(choices, base))
    assert capacities_of(choices, base, 4, 2) == {4: expected}
