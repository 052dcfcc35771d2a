"""The lanes of one objective: which capacity holds a model, how many lanes there are, and their drivers."""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from autorank.models.dhen import DhenConfig
from autorank.population.capacity import Capacity, capacity_of, misfit, widest
from autorank.training.lane_driver import LaneDriver
from autorank.training.lane_programs import LanePrograms
from autorank.training.memory import MEMORY_SHARE, Device, free_bytes, lane_bytes
from autorank.training.states import States

LOG = logging.getLogger(__name__)
MAX_LANES = 32  # more of them wait for each other's arithmetic only


class LanePool:
    """One driver for each capacity and device; safe for threads.

    Args:
        programs: compiles and holds the rows.
        states: where ended models go, and where others are continued from.
        devices: that train lanes.
        capacities: by width, fixed for all calls; widths of one capacity share a program. None where they follow the
            models that are asked for.
        at_once: requests that later calls ask for at once; the first call's own count in any case.
        max_lanes: of a program.
    """

    def __init__(
        self,
        programs: LanePrograms,
        states: States,
        devices: Sequence[Device],
        capacities: Mapping[int, Capacity] | None = None,
        at_once: int = 0,
        max_lanes: int = MAX_LANES,
    ) -> None:
        self.programs, self.devices = programs, list(devices)
        self._states, self._at_once, self._max_lanes = states, at_once, max_lanes
        self._fixed = capacities is not None
        self._capacities = {(width, c.head): c for width, c in (capacities or {}).items()}
        self._sizes: dict[tuple[Capacity, Device], int] = {}
        self._drivers: dict[tuple[Capacity, Device], LaneDriver] = {}
        self._lock = threading.RLock()

    @property
    def num_capacities(self) -> int:
        """How many programs share the work, at least 1."""
        with self._lock:
            return max(1, len(set(self._capacities.values())))

    def alike(self, model: DhenConfig) -> Hashable:
        """Equal for models that train in the same lanes."""
        key = model.width, model.head
        return self._capacities.get(key, key) if self._fixed else key

    def capacity(self, models: Sequence[DhenConfig]) -> Capacity | None:
        """The capacity for models that are `alike`; one that is not fixed grows where it has to."""
        key = models[0].width, models[0].head
        with self._lock:
            known = self._capacities.get(key)
            if self._fixed or (known and not any(misfit(known, model) for model in models)):
                return known
            sizes = self.programs.shape.num_fields, self.programs.shape.num_dense
            own = capacity_of(models, *sizes)
            self._capacities[key] = own if known is None else widest([known, own])
            for at in [at for at in self._drivers if at[0] == known]:
                self._drivers.pop(at).release()
            return self._capacities[key]

    def misfit(self, model: DhenConfig) -> str:
        """Why a model cannot train in the lanes that are fixed, or ""."""
        if not self._fixed:
            return ""
        known = self._capacities.get((model.width, model.head))
        if known is None:
            return f"no lanes of model.width={model.width}, model.head={model.head}"
        return misfit(known, model)

    def size(self, capacity: Capacity, device: Device, requests: int) -> int:
        """Number of lanes: fixed by the first call, so that there is one program; 0 where none fits the memory."""
        with self._lock:
            if (capacity, device) not in self._sizes:
                share = MEMORY_SHARE * free_bytes(device) / self.num_capacities
                fits = int(share / lane_bytes(capacity, self.programs.shape))
                wanted = -(-max(1, self._at_once, requests) // len(self.devices))
                self._sizes[capacity, device] = min(self._max_lanes, wanted, fits)
            return self._sizes[capacity, device]

    def known(self, capacity: Capacity) -> bool:
        """Whether a program of this capacity is compiled."""
        with self._lock:
            sizes = [(size, device) for (c, device), size in self._sizes.items() if c == capacity]
        return any(self.programs.name(capacity, *at) in self.programs.cache for at in sizes)

    def builds(self) -> list[Callable[[], Any]]:
        """Calls that compile the programs of the fixed capacities, one for each device.

        Every capacity comes first on one device: the others wait for it (`LanePrograms.compile`).
        """
        with self._lock:
            own = dict.fromkeys(self._capacities.values())
            places = [(c, d) for d in self.devices for c in own]
            sized = [(c, self.size(c, d, 1), d) for c, d in places]
        return [partial(self.programs.compile, *program) for program in sized if program[1]]

    def driver(self, capacity: Capacity, device: Device) -> tuple[LaneDriver, float]:
        """The driver of a capacity on a device, and the seconds spent on compiling it now."""
        compiled, seconds = self.programs.compile(capacity, self.size(capacity, device, 1), device)
        with self._lock:
            if (capacity, device) not in self._drivers:
                self._drivers[capacity, device] = LaneDriver(
                    compiled,
                    self.programs.inputs(device),
                    device,
                    self._states,
                    self.programs.shape.num_steps,
                )
            return self._drivers[capacity, device], seconds

    def halve(self, capacity: Capacity, device: Device) -> int:
        """Half the number of lanes, after a failure; 0 when there was only one."""
        with self._lock:
            self._drivers.pop((capacity, device), None)
            self._sizes[capacity, device] //= 2
            return self._sizes[capacity, device]
