"""The first trial: the app's own values, or those that the user names, and the space around them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf

from autorank.base.result import described
from hydra_plugins.autorank_sweeper._app import App
from hydra_plugins.autorank_sweeper._overrides import bare_key
from hydra_plugins.autorank_sweeper._space import SweptSpace, space_of_overrides

# Configurations that are composed before a sweep begins, beside the baseline. If none composes, the sweep is wrong.
COMPOSED = 16


class Start(NamedTuple):
    """Where a sweep starts."""

    swept: SweptSpace
    config: DictConfig  # the app's own, composed
    without: list[str]  # keys whose baseline is not in the space; they start at their first choice


def space_around_baseline(
    overrides: Mapping[str, Override],
    app: App,
    baseline: Sequence[str],
    conditions: Mapping[str, Any],
    grid_size: int,
) -> Start:
    """The space around the app's own values, or around those that ``baseline`` names.

    Raises:
        ValueError: a baseline that is not swept or not in its sweep; see `space_of_overrides`.
        HydraException: no configuration of the space can be composed.
    """
    given = given_values(baseline)
    swept_names = {bare_key(k) for k, o in overrides.items() if o.is_sweep_override()}
    for name in given:
        if name not in swept_names:
            raise ValueError(
                f"hydra.sweeper.baseline: {name} is not swept; give it as an ordinary override ({name}=...)"
            )
    anywhere, _ = space_of_overrides(overrides, {}, conditions, grid_size)
    try:
        config = app.compose(list(anywhere.fixed.values()))
    except HydraException:  # a mandatory group is swept over
        first = None if anywhere.space is None else anywhere.space.baseline
        config = app.compose(anywhere.overrides(first))
    values = app_values(overrides, config, config.hydra.runtime.choices) | given
    swept, without = space_of_overrides(overrides, values, conditions, grid_size)
    for name in map(bare_key, without):
        if name in given:
            raise ValueError(f"hydra.sweeper.baseline: {name}={given[name]!r} is not in its sweep")
    check_composes(swept, app)
    return Start(swept, config, without)


def check_composes(swept: SweptSpace, app: App) -> None:
    """Checks before a sweep begins that some of its configurations can be composed.

    If none can, a key is misspelt. If some can, a configuration that the app refuses is a failed trial, even if it is
    the baseline.

    Raises:
        HydraException: none of the configurations tried can be composed; says why the first one cannot.
    """
    if swept.space is None:
        return
    draw = np.random.default_rng(0)
    sizes = [len(d.choices) for d in swept.space.decisions]
    configs = [swept.space.baseline, *(draw.integers(0, sizes) for _ in range(COMPOSED))]
    first: Exception | None = None
    for config in configs:
        try:
            app.compose(swept.overrides(config))
            return
        except Exception as error:
            first = first or error
    assert first is not None
    if isinstance(first, HydraException):
        raise first
    raise CompactHydraException(f"no trial's config can be composed: {described(first)}") from first


def app_values(
    overrides: Mapping[str, Override], config: DictConfig, choices: Mapping[str, Any]
) -> dict[str, Any]:
    """The app's own value of each swept key that has one: a group's option (``choices``), or a value of its config."""
    values = {}
    for key, override in overrides.items():
        if not override.is_sweep_override():
            continue
        name = bare_key(key)
        if name in choices:
            values[name] = choices[name]
        else:
            value = OmegaConf.select(config, name, throw_on_missing=False)
            values[name] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return {name: value for name, value in values.items() if value is not None}


def given_values(lines: Sequence[str]) -> dict[str, Any]:
    """The values of ``hydra.sweeper.baseline`` by key.

    Raises:
        ValueError: a line that is not ``key=value``.
    """
    found = {}
    for override in OverridesParser.create().parse_overrides(list(lines)):
        if override.is_sweep_override() or override.is_delete():
            raise ValueError(f"hydra.sweeper.baseline: {override.input_line!r} must be key=value")
        found[bare_key(override.get_key_element())] = override.value()
    return found


def with_starts(
    baseline: Sequence[str], starts: Mapping[str, Any], overrides: Mapping[str, Override]
) -> list[str]:
    """The baseline, completed by the start values of forms; a value that the user names wins over a form's."""
    given = {bare_key(line.split("=")[0].strip()) for line in baseline}
    swept = {bare_key(k) for k, o in overrides.items() if o.is_sweep_override()}
    return [*baseline, *(f"{k}={v!r}" for k, v in starts.items() if k in swept - given)]
