"""From the command line to a search, or to a single job if nothing is swept; only a search loads JAX."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from hydra_plugins.autorank_sweeper._app import App
from hydra_plugins.autorank_sweeper._command_line import parse
from hydra_plugins.autorank_sweeper._overrides import override_text
from hydra_plugins.autorank_sweeper._params import read_params
from hydra_plugins.autorank_sweeper._settings import checked


def run(sweeper: Any, arguments: list[str]) -> list[list[JobReturn]]:
    """See `AutorankSweeper.sweep`.

    Raises:
        HydraException: invalid settings or overrides, another sweep's ledger, a second driver, a damaged ledger, a
            full disk, too many failures. Each message says what to do.
    """
    settings = checked(sweeper.settings)
    app = App(sweeper.hydra_context.config_loader, sweeper.config)
    params = read_params(settings["params"] or {}, app.config)
    overrides = parse(params.lines, arguments, app.loader, app.compose_without_overrides)
    swept = [o for o in overrides.values() if o.is_sweep_override()]
    for override in swept:
        if override.is_hydra_override():
            raise CompactHydraException(
                f"Sweeping over Hydra's configuration is not supported : '{override.input_line}'"
            )
    folder = Path(app.config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(app.config, folder / "multirun.yaml")
    except OSError as error:
        raise CompactHydraException(
            f"hydra.sweep.dir={folder} cannot be written to ({error}); make room or name another folder"
        ) from error
    if swept:
        from hydra_plugins.autorank_sweeper._search import search

        return search(sweeper, app, settings, overrides, params.starts, folder)
    job = [override_text(override) for override in overrides.values()]
    sweeper.validate_batch_is_legal([job])
    returns = list(sweeper.launcher.launch([job], initial_job_idx=0))
    for result in returns:
        _ = result.return_value  # raises what the job raised
    return [returns]
