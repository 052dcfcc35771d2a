"""Settings of `hydra/sweeper=autorank` and `hydra/launcher=autorank_ray`; docs/sweeper.md explains each of them."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from autorank.app.sweep_folder import register_resolver


@dataclass
class AutorankSweeperConf:
    """Settings of a sweep over jobs that return a number, or a pair (quality, cost)."""

    _target_: str = "hydra_plugins.autorank_sweeper.sweeper.AutorankSweeper"
    trials: int = 100  # more may be given to a finished sweep
    batch_size: int = 8  # trials in a round, or in flight if the launcher allows that
    max_batch_size: int | None = None  # most jobs handed to a synchronous launcher at once
    asynchronous: bool | None = None  # in flight, not in rounds; null: if the launcher allows it
    searcher: str = "autorank"
    initial: int | None = None  # trials before the searcher trusts its model; null: its default
    seed: int = 0
    direction: str = "minimize"  # or maximize
    baseline: list[str] = field(default_factory=list)  # overrides of the first trial
    alpha: float = 0.0  # weight of log(cost) against quality, 0 to 1
    cost_cap: float | None = None  # times the baseline's cost; trials above it rank last
    max_failure_rate: float = 0.5
    time_limit: float | None = None  # seconds for each trial
    attempts: int = 2  # a trial has failed after so many deaths of its worker
    ledger: str | None = None  # null: <hydra.sweep.dir>/trials.db
    grid_size: int | None = None  # points of an interval; null: 64, or 16 (see the docs)
    replay: bool = False  # run nothing: repeat all proposals of the ledger and compare
    # The space: key -> sweep. The command line takes precedence.
    params: dict[str, Any] | None = field(default_factory=dict)
    # Key glob -> {parent glob: values}.
    conditions: dict[str, Any] | None = field(default_factory=dict)
    # Data files whose content is part of the sweep's identity.
    files: list[str] = field(default_factory=list)


@dataclass
class AutorankRayConf:
    """Settings of a Ray cluster and of each job's task; see `ray.init` and `ray.remote`."""

    _target_: str = "hydra_plugins.autorank_sweeper.ray_launcher.AutorankRayLauncher"
    address: str | None = None  # null: a local cluster; "auto" or host:port: an existing one
    num_workers: int | None = None  # CPUs of a local cluster; null: one per core
    num_cpus: float = 1.0  # of each job
    num_gpus: float = 0.0  # of each job


register_resolver()  # for our own programs: a launcher's process may import nothing else of them
ConfigStore.instance().store(
    group="hydra/sweeper", name="autorank", node=AutorankSweeperConf, provider="autorank"
)
ConfigStore.instance().store(
    group="hydra/launcher", name="autorank_ray", node=AutorankRayConf, provider="autorank"
)
