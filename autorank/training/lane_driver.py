"""Trains a queue of requests in the lanes of one device: a lane whose model ends takes the next one at once."""

import math
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autorank.training.compact import Request
from autorank.training.device_lanes import DeviceLanes
from autorank.training.lane_programs import Compiled, Inputs
from autorank.training.memory import Device
from autorank.training.states import Held, Snapshot, States, lane_state
from autorank.training.step import Curve, TrainState

# A dispatch is at most this share of a run, so that failures are noticed and progress shows.
DISPATCH = 0.1


class Task(NamedTuple):
    """One request to be trained up to a step."""

    index: int  # the caller's
    request: Request
    stop: int


class LaneResult(NamedTuple):
    """A model that came to its end or failed."""

    task: Task
    curve: Curve  # on the host, [t, q]
    step: int
    failed_step: int  # -1 for none
    steps: int  # trained now: fewer than `step` where it continued an earlier run
    seconds: float  # its share of the dispatches that it took part in
    lane_seconds: float  # these dispatches whole
    models: int  # that trained in its last dispatch


class LaneQueue:
    """Tasks that the drivers of several devices share."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks, self._lock = deque(tasks), threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._tasks)

    def next(self, driver: "LaneDriver") -> Task | None:
        """A task that goes on in one of the driver's lanes, or else the first one; None at the end."""
        with self._lock:
            for i, task in enumerate(self._tasks):
                if driver.place_of(task) is not None:
                    del self._tasks[i]
                    return task
            return self._tasks.popleft() if self._tasks else None

    def keys(self) -> set[tuple]:
        """Keys of the states that the tasks go on from."""
        with self._lock:
            return {task.request.key for task in self._tasks}

    def give_back(self, tasks: Sequence[Task]) -> None:
        """Tasks that were not trained go first."""
        with self._lock:
            self._tasks.extendleft(reversed(tasks))

    def drain(self) -> list[Task]:
        """All tasks, taken out."""
        with self._lock:
            found = list(self._tasks)
            self._tasks.clear()
        return found


@dataclass(eq=False)
class Place:
    """What a lane holds, on the host."""

    task: Task | None = None  # while it runs
    held: "InLane | None" = None  # once it has ended
    step: int = 0
    first: int = 0  # step at which the task began
    seconds: float = 0.0
    lane_seconds: float = 0.0
    ended: int = 0  # counts dispatches

    def result(self, curve: Curve, failed_step: int, models: int) -> LaneResult:
        """Of the task that has just come to its end."""
        assert self.task is not None
        spent = self.seconds, self.lane_seconds
        return LaneResult(
            self.task, curve, self.step, failed_step, self.step - self.first, *spent, models
        )


@dataclass(eq=False)
class InLane:
    """A `Held` state that still lies in its lane; when the lane is needed, a copy takes its place."""

    driver: "LaneDriver"
    at: int
    step: int
    request: Request
    moved: Snapshot | None = None

    @property
    def nbytes(self) -> int:
        """0: the lane is there anyway."""
        return 0

    def snapshot(self) -> Snapshot:
        """See `Held`."""
        return self.driver.copy(self)

    def compact(self) -> TrainState:
        """See `Held`."""
        return self.snapshot().compact()


class LaneDriver:
    """Keeps the state of one program's lanes on a device across calls of `train`; one call at a time.

    Args:
        compiled: for ``device``.
        inputs: what it trains on.
        device: holds the lanes.
        states: where ended models go, and where others are continued from.
        num_steps: of a full run.
    """

    def __init__(
        self, compiled: Compiled, inputs: Inputs, device: Device, states: States, num_steps: int
    ) -> None:
        self._lanes, self._states = DeviceLanes(compiled, inputs, device), states
        self._most_steps = max(1, math.ceil(DISPATCH * num_steps))
        self._places = [Place() for _ in range(compiled.program.size)]
        self._dispatches = 0

    @property
    def size(self) -> int:
        """Number of lanes."""
        return len(self._places)

    def train(self, queue: LaneQueue) -> Iterator[LaneResult | None]:
        """Results as they come; None after a dispatch in which nothing ended.

        What is under way when the caller stops stays in its lane, to be continued. An error gives the tasks back to
        ``queue``; the driver is of no use then.
        """
        try:
            while True:
                self._fill(queue)
                if not any(place.task for place in self._places):
                    return
                ended = self._advance()
                yield from ended or [None]
        except GeneratorExit:
            for at, place in enumerate(self._places):
                if place.task is not None:
                    self._leave(at)
            raise
        except BaseException:
            queue.give_back([place.task for place in self._places if place.task])
            self._lose()
            raise

    def place_of(self, task: Task) -> int | None:
        """The lane in which a task would go on, if it is one of this driver's."""
        held = self._states.peek(task.request.key)
        if not isinstance(held, InLane) or held.driver is not self or held.moved is not None:
            return None
        return held.at if held.step <= task.stop else None

    def copy(self, held: InLane) -> Snapshot:
        """The state that a lane holds."""
        if held.moved is not None:
            return held.moved
        model, hparams = held.request.setting
        state = self._lanes.take(held.at)
        return Snapshot(state, held.step, model, hparams, self._lanes.capacity)

    def release(self) -> None:
        """Copies every state that may be continued out of its lane, and forgets the lanes."""
        for place in self._places:
            self._make_room(place)
        self._lanes.forget()

    def _fill(self, queue: LaneQueue) -> None:
        """Puts tasks into lanes that are free, as long as there are both."""
        free = [at for at, place in enumerate(self._places) if place.task is None]
        while free and (task := queue.next(self)) is not None:
            at = self.place_of(task)
            if at is None or at not in free:
                at = best_place(self._places, free, queue.keys(), self._states)
            free.remove(at)
            self._put(task, at)

    def _put(self, task: Task, at: int) -> None:
        """Starts or continues a task in a lane."""
        place, request = self._places[at], task.request
        found = self._states.peek(request.key)
        if found is not None and int(found.step) > task.stop:
            found = None
        in_place = isinstance(found, InLane) and found is place.held and found.moved is None
        if in_place:
            self._states.pop(request.key)
            step = place.step
        else:
            self._make_room(place)
            step = 0 if found is None else int(found.step)
            state = state_for(self._lanes, task.request, found)
            self._states.pop(request.key)
            self._lanes.load(at, *request.setting, state)
        self._places[at] = Place(task, None, step, step)

    def _make_room(self, place: Place) -> None:
        """Copies the state of an ended model out of its lane, if it may still be asked for."""
        held, place.held = place.held, None
        if held is not None and self._states.peek(held.request.key) is held:
            held.moved = self.copy(held)
            self._states.put(held.request.key, held.moved)

    def _advance(self) -> list[LaneResult]:
        """One dispatch; the models that ended in it."""
        started = time.perf_counter()
        tasks = {at: place.task for at, place in enumerate(self._places) if place.task}
        left = [task.stop - self._places[at].step for at, task in tasks.items()]
        stops = {at: task.stop for at, task in tasks.items()}
        curve, step, failed = self._lanes.run(stops, min(self._most_steps, *left))
        self._dispatches += 1
        seconds = time.perf_counter() - started
        ended = []
        for at, task in tasks.items():
            place = self._places[at]
            place.step, place.lane_seconds = int(step[at]), place.lane_seconds + seconds
            place.seconds += seconds / len(tasks)
            if place.step < task.stop and failed[at] < 0:
                continue
            ended.append(place.result(Curve(*(c[at] for c in curve)), int(failed[at]), len(tasks)))
            if failed[at] < 0:
                self._leave(at)
            else:
                self._places[at] = Place(ended=self._dispatches)
        return ended

    def _leave(self, at: int) -> None:
        """The model of a lane waits there to be continued or scored."""
        place = self._places[at]
        assert place.task is not None
        request = place.task.request
        held = InLane(self, at, place.step, request)
        self._places[at] = Place(None, held, place.step, ended=self._dispatches)
        self._states.put(request.key, held)

    def _lose(self) -> None:
        """After an error nothing in the lanes can be relied on."""
        for place in self._places:
            if place.held and self._states.peek(place.held.request.key) is place.held:
                self._states.pop(place.held.request.key)
        self._places = [Place() for _ in self._places]
        self._lanes.forget()


def best_place(
    places: Sequence[Place], free: Sequence[int], wanted: Collection[tuple], states: States
) -> int:
    """A lane that holds nothing, or the one that ended first and whose key is not ``wanted``."""

    def rank(at: int) -> tuple[bool, bool, int]:
        held, ended = places[at].held, places[at].ended
        if held is None or states.peek(held.request.key) is not held:
            return False, False, ended
        return held.request.key in wanted, True, ended

    return min(free, key=rank)


def state_for(lanes: DeviceLanes, request: Request, found: TrainState | Held | None) -> TrainState:
    """What a request begins with in a lane: new values, or the state that was ``found``."""
    model, hparams = request.setting
    if found is None:
        return lanes.start(model, request.seed, hparams)
    if not isinstance(found, TrainState):
        found = found.snapshot()
        if found.capacity == lanes.capacity:
            return found.state
        found = found.compact()
    return lane_state(found, model, lanes.capacity)
