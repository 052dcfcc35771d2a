"""Hydra's side of the settings: schemas and config groups from the registries, and the composed config as a record.

Each registered searcher, data source and fidelity rule is an option of its config group, with its record as the schema
and its defaults as the values, so that a new part needs no YAML file.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from autorank.app.idle import refuse_idle_predictor
from autorank.app.settings import PARTS
from autorank.app.sweep_folder import register_resolver
from autorank.base.plugins import load_plugins
from autorank.base.registry import Registry
from autorank.surrogates.losses import LOSSES
from autorank.surrogates.settings import PredictorConfig

T = TypeVar("T")


def share_store() -> None:
    """Hydra's config sources share the store of schemas from now on.

    Hydra copies the sources for each lookup of a group, and the whole store with them: 1.6 of the 1.9 CPU seconds that
    ``--help`` took. Nothing changes the store through a copy, and what is loaded from it is copied again. A Hydra of
    other internals is left as it is.
    """
    try:
        from hydra._internal.config_repository import CachingConfigRepository
    except ImportError:
        return

    def share(self: Any, delegate: Any) -> None:
        store = ConfigStore.instance()
        self.delegate = copy.deepcopy(delegate, {id(store): store})
        self.cache = {}

    CachingConfigRepository.__init__ = share


def register_groups() -> None:
    """Puts every registered part where ``searcher=NAME``, ``data=NAME`` and ``fidelity=NAME`` find it.

    Also those of plug-ins; and help texts find all of them under ``${parts:KEY,...}``.
    """
    load_plugins()
    OmegaConf.register_new_resolver("parts", described_parts, replace=True)
    register_resolver()
    store = ConfigStore.instance()
    for group, registry in PARTS.items():
        for name, entry in registry.items():
            store.store(group=group, name=name, node=open_schema(entry.settings))
    store.store(group="predictor", name="paper", node=open_schema(PredictorConfig))


def schema(record: type) -> Any:
    """A program's record as a Hydra schema, with its parts still to be chosen.

    Frozen dataclasses become read-only nodes, which YAML could not extend, so they are unlocked.
    """
    node = OmegaConf.structured(record)
    _unlock(node)
    types = {f.name: f.type for f in dataclasses.fields(record)}
    for group in _parts_of(record):
        node[group] = "???"
        _open(node._get_node(group))
    if "predictor" in types:
        _open(node._get_node("predictor"))
    if "searcher" in types.keys() - _parts_of(record):
        _open(node._get_node("searcher"))  # settings of several searchers, by their names
    return node


def _parts_of(record: Any) -> set[str]:
    """The fields of a program's record that are one part's settings."""
    types = {f.name: f.type for f in dataclasses.fields(record)}
    return {name for name in PARTS if dataclasses.is_dataclass(types.get(name))}


def open_schema(record: type) -> Any:
    """A part's record as a schema that takes any key: `settings` refuses unknown ones with a better message."""
    node = OmegaConf.structured(record)
    _unlock(node)
    _open(node)
    return node


def settings(config: Any, record: type[T]) -> T:
    """The composed config as a frozen record; no OmegaConf type is left after this.

    Raises:
        ValueError: a setting that the chosen part does not read, or a part's name beside the settings of another.
    """
    known = {f.name for f in dataclasses.fields(record)}  # pyright: ignore[reportArgumentType]
    for group in _parts_of(record):
        config[group] = _as_chosen(PARTS[group], config[group])
    if "predictor" in known:
        _refuse_unknown("predictor", config["predictor"], PredictorConfig)
    if "predictor" in known and "searcher" in _parts_of(record):
        refuse_idle_predictor(config["searcher"]["name"], overridden("predictor"))
    return _as_record(record, config)


def record_with(record: type[T], values: Mapping[str, Any], key: str) -> T:
    """A record with some of its fields changed, converted to their types as those of a config are.

    Args:
        record: its type.
        values: by field; nested where a field is.
        key: the config key of the record, for messages.

    Raises:
        ValueError: a value that is not of its field's type.
    """
    node = open_schema(record)
    for name, value in values.items():
        try:
            node = OmegaConf.merge(node, {name: value})
        except OmegaConfBaseException as error:
            raise ValueError(f"{key}.{name}={value!r}: {str(error).splitlines()[0]}") from error
    return _as_record(record, node)


def _as_record(record: Any, node: Any) -> Any:
    """A typed node as its record, with tuples for lists."""
    values = {}
    for field in dataclasses.fields(record):
        value = node[field.name]
        inner = OmegaConf.get_type(value) if OmegaConf.is_dict(value) else None
        if dataclasses.is_dataclass(inner):
            value = _as_record(inner, value)
        elif OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return record(**values)


def _as_chosen(registry: Registry[Any], node: Any) -> Any:
    """A part's node under the record of its name; a YAML file that only names a part has none yet."""
    values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    names: dict[Any, str] = {entry.settings: name for name, entry in registry.items()}
    chosen = names.get(OmegaConf.get_type(node)) or registry[values.get(registry.field, "")].name
    record = registry[chosen].settings
    for key in values:
        if key not in registry[chosen].fields:
            raise ValueError(refusal(registry, str(key), chosen))
    return OmegaConf.merge(open_schema(record), values)


def refusal(registry: Registry[Any], key: str, chosen: str) -> str:
    """Says which parts read a setting that the chosen one does not have."""
    group = registry.key
    readers = [name for name, entry in registry.items() if key in entry.fields]
    if not readers:
        known = ", ".join(registry[chosen].fields)
        return f"{group}.{key} is not a setting of {group}={chosen}; write one of {known}"
    choices = " or ".join(f"{group}={name}" for name in readers)
    return f"{group}.{key} has no effect with {group}={chosen}, which does not read it; it is for {choices}"


def overridden(group: str) -> list[str]:
    """The keys of a group that the command line sets, also to their defaults: a sweep may pass through them."""
    if not HydraConfig.initialized():
        return []
    keys = [text.lstrip("+~").partition("=")[0] for text in HydraConfig.get().overrides.task]
    return [key for key in keys if key == group or key.startswith(f"{group}.")]


def described_parts(*keys: str) -> str:
    """Lines for a help text: every registered part of some config keys, with its summary.

    Examples:
        >>> described_parts("fidelity").splitlines()[2]
        '  fidelity=full              Every trial sees the whole log.'
    """
    registries = {r.key: r for r in (*PARTS.values(), LOSSES)}
    return "\n".join(
        f"  {f'{key}={name}':<27}{entry.summary}"
        for key in keys
        for name, entry in registries[key].items()
    )


def _refuse_unknown(group: str, node: Any, record: type) -> None:
    known = [f.name for f in dataclasses.fields(record)]
    for key in node:
        if key not in known:
            raise ValueError(unknown_setting(group, str(key), record))


def unknown_setting(group: str, key: str, record: type) -> str:
    """Says that a record has no such setting, and which loss of the predictor has one."""
    known = ", ".join(f.name for f in dataclasses.fields(record))  # pyright: ignore[reportArgumentType]
    losses = [
        name for name, entry in LOSSES.items() if group == "predictor" and key in entry.fields
    ]
    hint = "".join(f"; predictor.loss={n} reads predictor.loss_settings.{key}" for n in losses)
    return f"{group}.{key} is not a setting; write one of {known}{hint}"


def _unlock(node: Any) -> None:
    OmegaConf.set_readonly(node, None)
    if OmegaConf.is_dict(node):
        for key in node:
            child = node._get_node(key)
            if OmegaConf.is_config(child):
                _unlock(child)


def _open(node: Any) -> None:
    """Lets a typed node take keys that its type does not have."""
    node._set_flag("struct", False)
