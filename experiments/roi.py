"""What searches return on open logs, against tuned baselines; `--help` explains itself."""

import contextlib
import logging
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from autorank.app.composition import schema
from autorank.app.programs import CONFIGS, plain_errors, register, settings
from autorank.studies.roi_settings import RoiConfig

if TYPE_CHECKING:
    from autorank.studies.roi_cells import Cell

LOG = logging.getLogger("autorank")
ROOT = Path(__file__).resolve().parents[1]
PEERS = ("optuna-gp",)  # searchers of `experiments.comparison.peer_search`
VISIBLE = "CUDA_VISIBLE_DEVICES"
GRACE = 5.0  # seconds between asking a cell to stop and stopping it

register()
ConfigStore.instance().store(name="base_roi", node=schema(RoiConfig))


def cells_of(cfg: RoiConfig) -> "list[Cell]":
    """Every cell, seed by seed, so that an early stop leaves whole rows of searchers."""
    from autorank.studies.roi_cells import Cell

    plan = cfg.roi
    return [
        Cell(data, searcher, seed)
        for data in plan.data
        for seed in range(plan.seeds)
        for searcher in plan.searchers
    ]


def command(cfg: RoiConfig, cell: "Cell") -> list[str]:
    """The search of a cell."""
    plan, place = cfg.roi, Path(cfg.runs, cfg.name, cell.data)
    program = "comparison.peer_search" if cell.searcher in PEERS else "search"
    own = [*plan.overrides, *cfg.logs[cell.data]]
    return [
        *(sys.executable, "-m", f"experiments.{program}", *own),
        *(f"searcher={cell.searcher}", f"search.seed={cell.seed}", f"search.trials={plan.trials}"),
        *(f"search.final_seeds={plan.final_seeds}", f"search.workers={plan.workers}"),
        *("tracking.mode=disabled", f"runs={place}", f"name={cell.searcher}-{cell.seed}"),
    ]


def devices_of(cfg: RoiConfig) -> list[str]:
    """What each of the cells side by side sees of the GPUs; an empty text is all of them."""
    plan = cfg.roi
    if not plan.accelerators:
        return [""] * plan.processes
    # Where a part of the machine's GPUs is ours, they go by the names that we were given.
    given = os.environ.get(VISIBLE)
    names = given.split(",") if given else [str(i) for i in range(plan.accelerators)]
    if len(names) < plan.accelerators:
        raise ValueError(
            f"roi.accelerators={plan.accelerators}, but {VISIBLE} names {len(names)}: {given}"
        )
    return [names[i % plan.accelerators] for i in range(plan.processes)]


class Cells:
    """Runs cells side by side, each in a process of its own, until all are done or the time is up."""

    def __init__(self, cfg: RoiConfig):
        self._cfg, self._begun = cfg, time.monotonic()
        self._end = None if cfg.roi.minutes is None else self._begun + 60 * cfg.roi.minutes
        self._lock, self._ended = threading.Lock(), 0
        self._children: set[subprocess.Popen[Any]] = set()
        self._devices: queue.SimpleQueue[str] = queue.SimpleQueue()
        for device in devices_of(cfg):
            self._devices.put(device)

    def run(self, cells: "Sequence[Cell]") -> None:
        """Runs what is not finished."""
        folder = Path(self._cfg.runs, self._cfg.name)
        waiting = [c for c in cells if not (folder / c.folder / "summary.json").exists()]
        LOG.info(
            "%d of %d cells are finished; %d are to do",
            len(cells) - len(waiting),
            len(cells),
            len(waiting),
        )
        with ThreadPoolExecutor(self._cfg.roi.processes) as pool:
            futures = [pool.submit(self._one, cell, len(waiting)) for cell in waiting]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # an interrupt too: no search goes on without this program
                self._end = self._begun
                pool.shutdown(wait=False, cancel_futures=True)
                for child in list(self._children):
                    stop(child)
                raise

    def _one(self, cell: "Cell", total: int) -> None:
        if self._left() <= 0:
            return
        folder = Path(self._cfg.runs, self._cfg.name, cell.folder)
        folder.mkdir(parents=True, exist_ok=True)
        device = self._devices.get()  # as many as there are threads
        own = {VISIBLE: device} if device else {}
        with (folder / "cell.log").open("w") as log:
            child = subprocess.Popen(
                command(self._cfg, cell),
                cwd=ROOT,
                env=os.environ | own,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self._children.add(child)
            try:
                child.wait(self._left())
            except subprocess.TimeoutExpired:
                stop(child)
            self._children.discard(child)
        self._devices.put(device)
        with self._lock:
            self._ended += 1
            spent = time.monotonic() - self._begun
            how = "finished" if child.returncode == 0 else f"ended with {child.returncode}"
            LOG.info("%s %s; %d of %d, %.0f s", cell.folder, how, self._ended, total, spent)

    def _left(self) -> float:
        return 1e9 if self._end is None else self._end - time.monotonic()


def stop(child: "subprocess.Popen[Any]") -> None:
    """Ends a cell; its ledger goes on where it was."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    child.kill()
    child.wait()


def own_command() -> str:
    """The command of this run, without where this machine keeps its files and how much it does side by side."""
    hidden = ("runs", "results", "roi.processes", "roi.workers", "roi.minutes", "roi.accelerators")
    task = [t for t in HydraConfig.get().overrides.task if t.partition("=")[0] not in hidden]
    return shlex.join(["python", "-m", "experiments.roi", *task])


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="roi")
@plain_errors
def main(config: DictConfig) -> None:
    """Runs or resumes the cells, and prints the table and what it shows."""
    cfg = settings(config, RoiConfig)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cells = cells_of(cfg)
    before = os.times()
    Cells(cfg).run(cells)
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])
    # Imported late: --help and typos must not wait for JAX.
    from autorank.studies.roi_cells import day_rows, read_cell
    from autorank.studies.roi_page import described
    from autorank.studies.roi_written import put

    reads = [read_cell(cell, Path(cfg.runs, cfg.name, cell.folder)) for cell in cells]
    rows = [read.row for read in reads]
    days = [
        row
        for cell, read in zip(cells, reads, strict=True)
        if read.experiment is not None
        for row in day_rows(cell, read.experiment)
    ]
    print(described(rows, cfg.roi.data, cfg.roi.order))
    print(f"{seconds:.0f} CPU seconds in this session")
    if cfg.write:
        origins = {
            data: [r.origin for r in reads if r.origin and r.row["data"] == data]
            for data in cfg.roi.data
        }
        put(cfg, rows, days, own_command(), origins)


if __name__ == "__main__":
    main()
