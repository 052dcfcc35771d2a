"""From the command line to a search, or to a single job where nothing is swept (without waiting for JAX)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.autorank_sweeper._params import parse, read_params


def run(sweeper: Any, arguments: list[str]) -> list[list[JobReturn]]:
    """See `AutorankSweeper.sweep`.

    Raises:
        HydraException: settings or overrides that cannot be meant, a ledger of another sweep, a second driver,
            a damaged ledger, a full disk, too many failures: each with what to do.
    """
    settings: dict[str, Any] = {
        k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v
        for k, v in sweeper.settings.items()
    }
    check(settings)
    loader, config = sweeper.hydra_context.config_loader, sweeper.config
    read = read_params(settings["params"] or {}, config)
    overrides = parse(read.lines, arguments, loader, lambda: _without_arguments(loader, config))
    settings["baseline"] = _with_starts(settings["baseline"], read.starts, overrides)
    swept = [o for o in overrides.values() if o.is_sweep_override()]
    for override in swept:
        if override.is_hydra_override():
            raise CompactHydraException(
                f"Sweeping over Hydra's configuration is not supported : '{override.input_line}'"
            )
    folder = Path(config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")
    except OSError as error:
        raise CompactHydraException(
            f"hydra.sweep.dir={folder} cannot be written to ({error}); make room or name another folder"
        ) from error
    if swept:
        from hydra_plugins.autorank_sweeper._search import search

        return search(sweeper, settings, overrides, folder)
    job = [written(override) for override in overrides.values()]
    sweeper.validate_batch_is_legal([job])
    returns = list(sweeper.launcher.launch([job], initial_job_idx=0))
    for result in returns:
        _ = result.return_value  # raises what the job raised
    return [returns]


def _without_arguments(loader: Any, config: DictConfig) -> DictConfig | None:
    """The app's own config; None where it needs an argument to be one."""
    try:
        return loader.load_sweep_config(config, [])
    except HydraException:
        return None


def _with_starts(
    baseline: Sequence[str], starts: Mapping[str, Any], overrides: Mapping[str, Override]
) -> list[str]:
    """Where the form of a parameter says where to start, that is its baseline unless the user says another."""
    given = {line.split("=")[0].strip().lstrip("+") for line in baseline}
    swept = {k.lstrip("+") for k, o in overrides.items() if o.is_sweep_override()}
    return [*baseline, *(f"{k}={v!r}" for k, v in starts.items() if k in swept - given)]


def written(override: Override) -> str:
    """An override that is no sweep, as text."""
    if override.value_type is None:
        return override.get_key_element()
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def check(settings: Mapping[str, Any]) -> None:
    """Refuses settings that cannot be meant, by name."""
    least = {"trials": 1, "batch_size": 1, "attempts": 1, "initial": 1, "grid_size": 2}
    for key, low in least.items():
        if settings[key] is not None and settings[key] < low:
            raise CompactHydraException(
                f"hydra.sweeper.{key}={settings[key]} must be {low} or more"
            )
    cap = settings["max_batch_size"]
    if cap is not None and cap < 1:
        raise CompactHydraException(
            f"hydra.sweeper.max_batch_size={cap} must be 1 or more, or null"
        )
    for key in ("alpha", "max_failure_rate"):
        if not 0 <= settings[key] <= 1:
            raise CompactHydraException(f"hydra.sweeper.{key}={settings[key]} must lie in [0, 1]")
    if settings["direction"] not in ("minimize", "maximize"):
        raise CompactHydraException(
            f"hydra.sweeper.direction={settings['direction']} is not known; write minimize or maximize"
        )
    if settings["cost_cap"] is not None and settings["cost_cap"] <= 0:
        raise CompactHydraException(
            f"hydra.sweeper.cost_cap={settings['cost_cap']} must be above 0 (times the baseline's cost)"
        )
