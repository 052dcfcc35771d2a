"""Joins the sweeper's ``params`` with the command line, whose overrides win."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.autorank_sweeper._app import first_line_of, own_value
from hydra_plugins.autorank_sweeper._forms import is_form, read_form
from hydra_plugins.autorank_sweeper._overrides import bare_key, without_quotes
from hydra_plugins.autorank_sweeper._params import refused

LOG = logging.getLogger(__name__)


def parse(
    params: Mapping[str, str],
    arguments: Sequence[str],
    loader: Any,
    own: Callable[[], DictConfig | None] = lambda: None,
) -> dict[str, Override]:
    """Overrides by key: first those of the sweeper's ``params``; a later override of a key replaces an earlier one.

    Args:
        params: text by key, as `read_params` gives it.
        arguments: the command line's overrides.
        loader: Hydra's config loader, needed by ``glob``.
        own: composes the app's config without the command line; called only if a list or a dict is given there.

    Raises:
        CompactHydraException: text of ``params`` that Hydra cannot parse; an incomplete form on the command line.
    """
    parser = OverridesParser.create(config_loader=loader)
    found: dict[str, Override] = {}
    for key, text in params.items():
        try:
            found[key] = parser.parse_override(f"{key}={text}")
        except HydraException as error:
            raise refused(key, text, first_line_of(error)) from error
    for override in parser.parse_overrides(list(arguments)):
        if isinstance(override._value, list | dict) and not override.is_hydra_override():
            config = own()
            if config is not None:
                override = _list_or_dict(override, config, parser)
        if isinstance(override._value, dict):
            for key in _set_by(override, params):
                found.pop(key, None)
        found[override.get_key_element()] = override
    return found


def _set_by(override: Override, params: Mapping[str, str]) -> list[str]:
    """Keys of ``params`` below the override's own whose values its dict sets as well."""
    above = f"{bare_key(override.get_key_element())}."
    return [
        key
        for key in params
        if bare_key(key).startswith(above) and _holds(override._value, bare_key(key)[len(above) :])
    ]


def _holds(values: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def _list_or_dict(override: Override, config: DictConfig, parser: OverridesParser) -> Override:
    """Hydra's own meaning, one value, except that a form is a sweep where the app's value is a single one."""
    value, key = override.value(), override.get_key_element()
    own = own_value(key, config)
    if isinstance(value, list):
        if len(value) > 1 and own is not None and not OmegaConf.is_config(own):
            several = f"{key}={','.join(map(str, value))}"
            LOG.info(
                "%s is one value, a list; for several values write %s", override.input_line, several
            )
        return override
    plain = without_quotes(value)
    if not isinstance(value, dict) or OmegaConf.is_config(own) or not is_form(plain):
        return override
    if own is None:
        LOG.info("%s is one value, a dict; it is not a sweep", override.input_line)
        return override
    try:
        text = read_form(plain).text
    except ValueError as error:
        raise refused(key, override.get_value_element_as_str(), error, place="") from error
    LOG.info("%s is read as %s=%s", override.input_line, key, text)
    return parser.parse_override(f"{key}={text}")
