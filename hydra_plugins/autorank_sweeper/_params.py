"""``hydra.sweeper.params`` as overrides: nested keys joined, lists as choices, other tools' forms as Hydra's text."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from hydra_plugins.autorank_sweeper import _forms

LOG = logging.getLogger(__name__)
ADVICE = "write for example choice(1,2,4), tag(log, interval(1e-4, 1e-2)) or range(1,9)"
# Ranges and alternatives in notations that Hydra takes for text: 1..5, 1:5, 1|2, 1;2, 1 to 5.
FOREIGN = re.compile(
    r"[-+\d.e]+\s*(\.\.|:|\bto\b)\s*[-+\d.e]+(\s*:\s*[-+\d.e]+)?|[^|;]+([|;][^|;]+)+", re.IGNORECASE
)


class Read(NamedTuple):
    """Overrides as text by key, and where the search is to start."""

    lines: dict[str, str]
    starts: dict[str, Any]


def read_params(params: Mapping[str, Any], config: DictConfig) -> Read:
    """The space that ``params`` describes, in an app whose own config is ``config``.

    Raises:
        CompactHydraException: what can be no sweep and no value, by key and value, with what to write instead.
    """
    lines: dict[str, str] = {}
    starts: dict[str, Any] = {}
    plain = True
    for key, value in _flat("", params, config):
        try:
            text, start, as_it_stands = _line(key, value, config)
        except ValueError as error:
            raise _refused(key, value, error) from error
        if key in lines:
            raise _refused(key, value, f"{key} is given twice")
        lines[key] = text
        plain = plain and as_it_stands
        if start is not None:
            starts[key.lstrip("+")] = start
    if not plain:
        LOG.info(
            "hydra.sweeper.params is read as %s", " ".join(f"{k}={v}" for k, v in lines.items())
        )
    return Read(lines, starts)


def parse(
    params: Mapping[str, str],
    arguments: Sequence[str],
    loader: Any,
    own: Callable[[], DictConfig | None] = lambda: None,
) -> dict[str, Override]:
    """Overrides by key, those of the sweeper's ``params`` first; a later one replaces an earlier one.

    Args:
        params: text by key, as `read_params` gives it.
        arguments: the command line's.
        loader: Hydra's, for ``glob``.
        own: gives the app's config without the command line; asked only where a list or a dict stands there.

    Raises:
        CompactHydraException: text of ``params`` that cannot be read; half a form on the command line.
    """
    parser = OverridesParser.create(config_loader=loader)
    found: dict[str, Override] = {}
    for key, text in params.items():
        try:
            found[key] = parser.parse_override(f"{key}={text}")
        except HydraException as error:
            raise _refused(key, text, _reason(error)) from error
    for override in parser.parse_overrides(list(arguments)):
        if isinstance(override._value, list | dict) and not override.is_hydra_override():
            config = own()
            if config is not None:
                override = _given(override, config, parser)
        key = override.get_key_element()
        if isinstance(override._value, dict):  # it sets what is below it, too
            for below in [k for k in params if k.lstrip("+").startswith(f"{key.lstrip('+')}.")]:
                if _holds(override._value, below.lstrip("+")[len(key.lstrip("+")) + 1 :]):
                    found.pop(below, None)
        found[key] = override
    return found


def _holds(values: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def _flat(above: str, values: Mapping[Any, Any], config: DictConfig) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = _joined(above, str(name))
        value = _read(key, value, config)
        if not isinstance(value, Mapping):
            yield key, value
            continue
        own = _own(key, config)
        if _forms.is_form(value) and not (OmegaConf.is_dict(own) and all(k in own for k in value)):
            yield key, value
        elif not value:
            raise _refused(key, value, "it is empty")
        elif own is not None and not OmegaConf.is_dict(own):
            what = f"the config's own {key} is {_short(own)}, which has no keys, and this is no known form of a sweep"
            raise _refused(key, value, what)
        elif set(value) == {"parameters"} and isinstance(value["parameters"], Mapping):
            yield from _flat(key, value["parameters"], config)  # W&B's nesting
        else:
            yield from _flat(key, value, config)


def _joined(above: str, name: str) -> str:
    if not above:
        return name
    bare = name.lstrip("+")
    plus = max(above[: len(above) - len(above.lstrip("+"))], name[: len(name) - len(bare)], key=len)
    return f"{plus}{above.lstrip('+')}.{bare}"


def _line(key: str, value: Any, config: DictConfig) -> tuple[str, Any, bool]:
    """The override's text, a start, and whether the text is a sweep that stands there as it is."""
    if isinstance(value, str):
        text = value.strip()
        override = _forms.parsed(text)
        if override is None:
            return text, None, True  # Hydra's parser says what is wrong
        if override.is_sweep_override():
            return text, None, True
        inner = override.value()
        nested = _forms.parsed(inner) if isinstance(inner, str) and inner != text else None
        if nested is not None and nested.is_sweep_override() and "(" in str(inner):
            raise ValueError(f"its quotes make it a word; write {inner}")
        if FOREIGN.fullmatch(text):
            raise ValueError(
                f"Hydra takes it for one word, not for several values; for the word itself give {key}=... on the "
                "command line"
            )
        return text, None, False
    if isinstance(value, Mapping):
        form = _forms.read_form({str(k): v for k, v in value.items()})
        return form.text, form.start, False
    if isinstance(value, list | tuple):
        own = _own(key, config)
        if OmegaConf.is_list(own) and not all(
            v is None or isinstance(v, list | tuple) for v in value
        ):
            raise ValueError(
                f"the config's own {key} is a list, and a list here is one of choices; write [[...], [...]] for "
                f"several lists, and {key}={_forms.literal(value)} on the command line for this one"
            )
        return _forms.choices(list(value)), None, False
    return _forms.literal(value), None, False


def _holds_sweep(value: Any) -> bool:
    if isinstance(value, Sweep):
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_holds_sweep, inner))


def _read(key: str, value: Any, config: DictConfig) -> Any:
    """Text as the list, the mapping or the interpolation's value that it stands for; other text as it is."""
    if not isinstance(value, str):
        return value
    override = _forms.parsed(value.strip())
    if override is None or override.is_sweep_override():
        return _resolved(key, value, config) if override is None else value
    inner = override.value()
    if isinstance(inner, list | dict):
        if _holds_sweep(inner):
            what = "there is a sweep inside a value; write all values in one choice(...)"
            raise _refused(key, value, what)
        return _forms.plain(inner)
    return _resolved(key, value, config)


def _resolved(key: str, value: str, config: DictConfig) -> Any:
    """An interpolation that stands for a sweep is read here; one that is a value is left to the job's config."""
    if "${" not in value:
        return value
    holder = OmegaConf.create({"value": value})
    holder._set_parent(config)
    try:
        found = holder.value
        found = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except InterpolationKeyError as error:
        raise _refused(key, value, f"it cannot be resolved ({_reason(error)})") from error
    except (OmegaConfBaseException, ValueError):  # ${hydra:...} and the like have no value yet
        return value
    if isinstance(found, str):
        override = _forms.parsed(found.strip())
        return found if override is None or override.is_sweep_override() else value
    return found if isinstance(found, list | dict) else value


def _given(override: Override, config: DictConfig, parser: OverridesParser) -> Override:
    """An override of the command line, where Hydra's own meaning holds but for a form in place of one value."""
    value, key = override.value(), override.get_key_element()
    if isinstance(value, list):
        own = _own(key, config)
        if len(value) > 1 and own is not None and not _is_container(own):
            LOG.info(
                "%s is one value, a list; for several values write %s=%s",
                override.input_line, key, ",".join(map(str, value)),
            )  # fmt: skip
        return override
    if not isinstance(value, dict) or _is_container(_own(key, config)):
        return override
    plain = _forms.plain(value)
    if not _forms.is_form(plain):
        return override
    if _own(key, config) is None:
        LOG.info("%s is one value, a dict; it is no sweep", override.input_line)
        return override
    try:
        text = _forms.read_form(plain).text
    except ValueError as error:
        raise _refused(key, override.get_value_element_as_str(), error, place="") from error
    LOG.info("%s is read as %s=%s", override.input_line, key, text)
    return parser.parse_override(f"{key}={text}")


def _own(key: str, config: DictConfig) -> Any:
    try:
        return OmegaConf.select(config, key.lstrip("+~").split("@")[0].replace("/", "."))
    except OmegaConfBaseException:
        return None


def _is_container(value: Any) -> bool:
    return OmegaConf.is_config(value)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _refused(
    key: str, value: Any, why: object, place: str = "hydra.sweeper.params: "
) -> CompactHydraException:
    text = _short(value)
    return CompactHydraException(f"{place}{key}={text} is no sweep: {why}; {ADVICE}")
