"""Reads ``hydra.sweeper.params`` as overrides: joins nested keys, turns lists into choices, translates other forms."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Sweep
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from hydra_plugins.autorank_sweeper._app import first_line_of, own_value
from hydra_plugins.autorank_sweeper._forms import is_form, read_form
from hydra_plugins.autorank_sweeper._overrides import (
    bare_key,
    choices_text,
    parse_value,
    value_text,
    without_quotes,
)

LOG = logging.getLogger(__name__)
ADVICE = "write for example choice(1,2,4), tag(log, interval(1e-4, 1e-2)) or range(1,9)"
# Ranges and alternatives in notations that Hydra reads as one word: 1..5, 1:5, 1|2, 1;2, 1 to 5.
FOREIGN = re.compile(
    r"[-+\d.e]+\s*(\.\.|:|\bto\b)\s*[-+\d.e]+(\s*:\s*[-+\d.e]+)?|[^|;]+([|;][^|;]+)+", re.IGNORECASE
)


class Params(NamedTuple):
    """Overrides as text by key, and the value at which the search of a key should start, where a form names one."""

    lines: dict[str, str]
    starts: dict[str, Any]


class Line(NamedTuple):
    """One override as text."""

    text: str
    start: Any = None
    verbatim: bool = False  # the text is the user's own


def read_params(params: Mapping[str, Any], config: DictConfig) -> Params:
    """The overrides that ``params`` describes, for an app whose own config is ``config``.

    Raises:
        CompactHydraException: neither a sweep nor a value; the message has key and value, and what to write instead.
    """
    lines: dict[str, str] = {}
    starts: dict[str, Any] = {}
    verbatim = True
    for key, value in _flat("", params, config):
        try:
            line = _line(key, value, config)
        except ValueError as error:
            raise refused(key, value, error) from error
        if key in lines:
            raise refused(key, value, f"{key} is given twice")
        lines[key] = line.text
        verbatim = verbatim and line.verbatim
        if line.start is not None:
            starts[bare_key(key)] = line.start
    if not verbatim:
        LOG.info(
            "hydra.sweeper.params is read as %s", " ".join(f"{k}={v}" for k, v in lines.items())
        )
    return Params(lines, starts)


def refused(
    key: str, value: Any, why: object, place: str = "hydra.sweeper.params: "
) -> CompactHydraException:
    """The error for what is not a sweep, with advice."""
    return CompactHydraException(f"{place}{key}={_short(value)} is not a sweep: {why}; {ADVICE}")


def _flat(above: str, values: Mapping[Any, Any], config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Full keys with the values below them that are not merely nesting."""
    for name, value in values.items():
        key = _joined(above, str(name))
        value = _read(key, value, config)
        if not isinstance(value, Mapping):
            yield key, value
            continue
        own = own_value(key, config)
        if is_form(value) and not (OmegaConf.is_dict(own) and all(k in own for k in value)):
            yield key, value
        elif not value:
            raise refused(key, value, "it is empty")
        elif own is not None and not OmegaConf.is_dict(own):
            what = f"the config's own {key} is {_short(own)}, which has no keys"
            raise refused(key, value, f"{what}, and this is not a known form of a sweep")
        elif set(value) == {"parameters"} and isinstance(value["parameters"], Mapping):
            yield from _flat(key, value["parameters"], config)  # W&B's nesting
        else:
            yield from _flat(key, value, config)


def _joined(above: str, name: str) -> str:
    """``above.name``, with the longer of the two's leading ``+``."""
    if not above:
        return name
    bare = bare_key(name)
    plus = max(above[: len(above) - len(bare_key(above))], name[: len(name) - len(bare)], key=len)
    return f"{plus}{bare_key(above)}.{bare}"


def _line(key: str, value: Any, config: DictConfig) -> Line:
    if isinstance(value, str):
        return _line_of_text(key, value.strip())
    if isinstance(value, Mapping):
        form = read_form({str(k): v for k, v in value.items()})
        return Line(form.text, form.start)
    if isinstance(value, list | tuple):
        own = own_value(key, config)
        holds_lists = all(v is None or isinstance(v, list | tuple) for v in value)
        if OmegaConf.is_list(own) and not holds_lists:
            raise ValueError(
                f"the config's own {key} is a list, and a list here is one of choices; write [[...], [...]] for "
                f"several lists, and {key}={value_text(value)} on the command line for this one"
            )
        return Line(choices_text(list(value)))
    return Line(value_text(value))


def _line_of_text(key: str, text: str) -> Line:
    override = parse_value(text)
    if override is None or override.is_sweep_override():
        return Line(text, verbatim=True)  # what Hydra cannot parse, its parser refuses later
    inner = override.value()
    nested = parse_value(inner) if isinstance(inner, str) and inner != text else None
    if nested is not None and nested.is_sweep_override() and "(" in str(inner):
        raise ValueError(f"its quotes make it a word; write {inner}")
    if FOREIGN.fullmatch(text):
        raise ValueError(
            f"Hydra reads it as one word, not as several values; for the word itself give {key}=... on the "
            "command line"
        )
    return Line(text)


def _read(key: str, value: Any, config: DictConfig) -> Any:
    """Text that stands for a list, a mapping or an interpolation becomes that; anything else stays as it is."""
    if not isinstance(value, str):
        return value
    override = parse_value(value.strip())
    if override is not None and override.is_sweep_override():
        return value
    inner = None if override is None else override.value()
    if isinstance(inner, list | dict):
        if _holds_sweep(inner):
            what = "there is a sweep inside a value; write all values in one choice(...)"
            raise refused(key, value, what)
        return without_quotes(inner)
    return _resolved(key, value, config)


def _holds_sweep(value: Any) -> bool:
    if isinstance(value, Sweep):
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_holds_sweep, inner))


def _resolved(key: str, value: str, config: DictConfig) -> Any:
    """Resolves an interpolation that stands for a sweep; one that is a value is left to the job's config."""
    if "${" not in value:
        return value
    holder = OmegaConf.create({"value": value})
    holder._set_parent(config)
    try:
        found = holder.value
        found = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except InterpolationKeyError as error:
        raise refused(key, value, f"it cannot be resolved ({first_line_of(error)})") from error
    except (OmegaConfBaseException, ValueError):  # ${hydra:...} and the like have no value yet
        return value
    if isinstance(found, str):
        override = parse_value(found.strip())
        return found if override is None or override.is_sweep_override() else value
    return found if isinstance(found, list | dict) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."
