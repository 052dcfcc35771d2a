"""The lanes of one program on one device, for the driver that fills them."""

import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.jax_settings import refuse_implicit_transfers
from autorank.models.dhen import DhenConfig
from autorank.population.capacity import Lane, empty_lane, lane_of, stacked
from autorank.population.pairs import pairs_of
from autorank.population.storage import used
from autorank.training.lane_programs import Compiled, Inputs
from autorank.training.lanes import Lanes
from autorank.training.memory import Device
from autorank.training.step import Curve, Hparams, TrainState


class DeviceLanes:
    """The state of all lanes on a device, under a lock: it is donated from program to program.

    Args:
        compiled: for ``device``.
        inputs: what it trains on.
        device: holds the lanes.
    """

    def __init__(self, compiled: Compiled, inputs: Inputs, device: Device) -> None:
        self._compiled, self._inputs, self._device = compiled, inputs, device
        self._lock = threading.RLock()
        self.capacity = compiled.capacity
        self._state: Any
        self._arguments: Any
        self._state, self._arguments = compiled.begin()
        # On the host: the pairs of every dispatch are made of them.
        self._models: Lane = stacked([empty_lane(self.capacity)] * compiled.program.size)

    def start(self, model: DhenConfig, seed: int, hparams: Hparams) -> TrainState:
        """The state of a model before its first step."""
        return self._compiled.start(model, seed, hparams, self._device)

    def load(self, at: int, model: DhenConfig, hparams: Hparams, state: TrainState) -> None:
        """Writes a model and its state into a lane."""
        own = lane_of(model, self.capacity)
        lane = Lanes(own, hparams, used(model, self.capacity), jnp.int32(0))
        place, lane, state = jax.device_put((np.int32(at), lane, state), self._device)
        with self._lock:
            for column, value in zip(self._models, own, strict=True):
                column[at] = value
            self._state, self._arguments = self._compiled.put(
                self._state, self._arguments, place, state, lane
            )

    def take(self, at: int) -> TrainState:
        """A copy of the state of a lane."""
        with self._lock:
            return self._compiled.take(self._state, jax.device_put(np.int32(at), self._device))

    def run(self, stops: Mapping[int, int], num_steps: int) -> tuple[Curve, np.ndarray, np.ndarray]:
        """Trains some lanes up to their stops by ``num_steps`` at most: all lanes' curves, steps, failed steps."""
        stop = np.zeros(self._compiled.program.size, np.int32)
        for at, value in stops.items():
            stop[at] = value
        pairs = pairs_of(self.capacity, self._models, stop > 0)
        limits, pairs, count = jax.device_put((stop, pairs, np.int32(num_steps)), self._device)
        with self._lock, refuse_implicit_transfers():
            lanes = self._arguments._replace(stop=limits)
            own = self._compiled.run(self._state, lanes, pairs, *self._inputs, count)
            self._state = own
            # Copied: a CPU device's arrays would be the program's own memory, which the next dispatch takes.
            found = jax.device_get((own.curve, own.step, own.failed_step))
            return jax.tree.map(np.array, found)

    def forget(self) -> None:
        """Frees the memory; the lanes are of no use then."""
        with self._lock:
            self._state = self._arguments = None
