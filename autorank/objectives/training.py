"""Training on data as an objective: each configuration in one pass over the log, alone or in a population."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base import measurable
from autorank.base.ahead import Ahead
from autorank.base.jax_settings import own_settings, training_choices, training_settings
from autorank.base.programs import ProgramCache
from autorank.base.searched import NE
from autorank.data.format.batches import Dataset
from autorank.data.format.users import users_of
from autorank.models.cost import flops_per_example
from autorank.models.dhen import DhenConfig
from autorank.models.heads import METRICS
from autorank.objectives.base import Objective, Outcome
from autorank.objectives.choice import Choice
from autorank.objectives.costs import CostModel, Costs, prior
from autorank.objectives.finished import FinishedModels
from autorank.objectives.jobs import Trainers, make_jobs
from autorank.objectives.measuring import WindowMeasure
from autorank.objectives.placement import checked_mesh, on_devices
from autorank.objectives.slices import SliceLosses, Slicing
from autorank.population.capacity import Capacity
from autorank.training.compact import CompactPrograms, Request, Setting
from autorank.training.lane_pool import MAX_LANES, LanePool
from autorank.training.lane_programs import LanePrograms, shared
from autorank.training.memory import Device, Shape, state_bytes
from autorank.training.pipeline import run_jobs
from autorank.training.scored import MeasureRows, ScoredPrograms
from autorank.training.settings import TrainingConfig
from autorank.training.states import States
from autorank.training.step import Schedule
from autorank.training.tables import max_distinct


@dataclass(frozen=True)
class ObjectiveConfig:
    """How trials are trained; apart from `training` and `head`, nothing here changes outcomes beyond rounding."""

    training: TrainingConfig = TrainingConfig()
    head: str = "ctr"  # one of `METRICS`
    # Threads that compile and train side by side: XLA does both outside the interpreter lock.
    workers: int = 2
    executor: str = "compact"  # one of `choice.CHOICES`
    max_lanes: int = MAX_LANES  # most models of a population
    # Devices that train populations; None for all accelerators, or the first CPU device.
    lane_devices: tuple[Device, ...] | None = None
    # What populations can hold, by width; None where they follow the models that are asked for.
    capacities: Mapping[int, Capacity] | None = None
    at_once: int = 0  # trials that later calls ask for at once, at most
    expected_trials: int = 0  # of all calls together; 0 where each call is judged by itself
    first: DhenConfig | None = None  # the model that is trained before all others
    prior: Costs | None = None  # until costs are measured; None for the backend's own
    state_bytes: int = 0  # of training states that are kept; 0 for the device's share
    qps_seconds: float = 0.15  # that one measurement of the throughput takes
    # One of `searched.MEASURES`; another than NE is measured in each window from its scores
    measure: str = NE
    # Slices of the rows whose losses are kept as well, of the first metric; not together with another measure than NE
    slices: Slicing | None = None


@training_settings()
def training_objective(
    dataset: Dataset, decode: Callable[[np.ndarray], Setting], settings: ObjectiveConfig
) -> Objective:
    """Trains each configuration in one pass over the training rows: alone, or many of them as one population.

    Rows beyond the last full batch are left out (fewer than ``batch_size``).

    Args:
        dataset: training and held-out rows.
        decode: from a configuration ``[k]`` to its `Setting`.
        settings: how they are trained.

    Raises:
        ValueError: fewer training rows than ``num_windows`` batches; devices that are not there, do not divide the
            batch, or with more than one worker or another precision than float32; a measure of users without users;
            slices by a field that is not there.
    """
    schema, progressive = dataset.schema, settings.training.held_out == "progressive"
    shape = shape_of(dataset, settings.training)
    measured = WindowMeasure.wanted(dataset, settings.measure, METRICS[settings.head])
    trainers = _trainers(dataset, shape, settings, measured or _slices(dataset, settings))
    jax_choices = training_choices()  # once: a job may change them later
    ahead = Ahead(settings.workers, jax_choices)
    compile_ahead(trainers, settings.first, ahead)
    finished = FinishedModels(
        dataset,
        decode,
        trainers.compact,
        settings.head,
        progressive,
        settings.qps_seconds,
        jax_choices,
        ahead,
    )
    metrics, parts = METRICS[settings.head], (dataset.train(), dataset.test())
    return Objective(
        name=schema.name,
        fingerprint=dataset.fingerprint(),
        metrics=metrics,
        num_rows=shape.num_steps * shape.batch_size,
        num_windows=shape.num_windows,
        evaluate=EvaluateByTraining(trainers, decode, settings.workers, jax_choices),
        cost=AnalyticCost(decode, shape),
        stats=lambda: trainers.compact.cache.stats,
        test=finished.test,
        trained=finished.trained,
        qps=finished.qps,
        compiled_flops=finished.compiled_flops,
        prepare=finished.prepare,
        test_labels=np.asarray(parts[1].labels, np.float64),
        test_users=users_of(schema, parts[1].sparse),
        measurable=_measurable(parts[0].labels, metrics, shape, measured),
        counts=tuple(
            measurable.count(name, part.labels, metric)
            for name, part in zip(("training", "held-out"), parts, strict=True)
            for metric in metrics
        ),
    )


def compile_ahead(trainers: Trainers, first: DhenConfig | None, ahead: Ahead) -> None:
    """Begins to compile the lanes' program if most trials will train in it.

    The ``first`` model's seeds have a program of their own, which is traced before: tracing is Python, one program at a
    time, and that of the lanes takes ten seconds.
    """
    if trainers.choice.expects_lanes():
        if first is not None:
            trainers.compact.begin(first)
        ahead.start(trainers.lanes.builds())


@dataclass(frozen=True, eq=False)
class EvaluateByTraining:
    """`Evaluate` by training; trials run side by side in threads."""

    trainers: Trainers
    decode: Callable[[np.ndarray], Setting]
    workers: int
    jax_choices: dict[str, Any]  # the user's settings of JAX that training follows

    def __call__(
        self, configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        """Outcomes in the order in which training ends."""
        shape = self.trainers.shape
        # Whole windows: a label never looks at half a window.
        windows = math.ceil(fidelity * shape.num_windows - 1e-9)
        stop = math.ceil(windows * shape.num_steps / shape.num_windows)
        # Not around the results: between two of them the caller's settings hold.
        with own_settings(**self.jax_choices):
            pairs = zip(configs, seeds, strict=True)
            requests = [Request.of(config, seed, self.decode) for config, seed in pairs]
            jobs = make_jobs(self.trainers, requests, stop)
        settings = partial(own_settings, **self.jax_choices)
        yield from run_jobs(jobs, self.workers, self.trainers.choice.lanes(), settings)


class AnalyticCost(NamedTuple):
    """`Cost` by formula; nothing is compiled."""

    decode: Callable[[np.ndarray], Setting]
    shape: Shape

    def __call__(self, configs: np.ndarray, /) -> np.ndarray:
        """Forward FLOPs per example ``[n]``."""
        sizes = self.shape.num_fields, self.shape.num_dense
        return np.array(
            [flops_per_example(self.decode(c).model, *sizes) for c in configs], np.float64
        )


def shape_of(dataset: Dataset, settings: TrainingConfig) -> Shape:
    """The sizes of a pass over the training rows.

    Raises:
        ValueError: fewer training rows than ``num_windows`` batches.
    """
    schema, batch_size = dataset.schema, settings.batch_size
    num_steps = schema.num_train // batch_size
    if num_steps < settings.num_windows:
        raise ValueError(
            f"training.batch_size={batch_size} gives {num_steps} steps on {schema.num_train} training rows, fewer "
            f"than training.num_windows={settings.num_windows}; lower one of them"
        )
    return Shape(
        len(schema.fields),
        len(schema.dense),
        schema.num_ids,
        batch_size,
        settings.num_windows,
        num_steps,
        schema.unknown_ids,
    )


def _slices(dataset: Dataset, settings: ObjectiveConfig) -> SliceLosses | None:
    """What measures the slices that these settings ask for."""
    if settings.slices is None:
        return None
    return SliceLosses.of(dataset, settings.slices, METRICS[settings.head][0])


def _measurable(
    labels: np.ndarray, metrics: Sequence[str], shape: Shape, measured: WindowMeasure | None
) -> np.ndarray:
    """Windows in which each metric can be measured, bool ``[t, q]``."""
    num_rows = shape.num_steps * shape.batch_size
    known = measurable.windows(labels[:num_rows], metrics, shape.num_steps, shape.num_windows)
    return known if measured is None else known & measured.known(shape)


def _trainers(
    dataset: Dataset, shape: Shape, settings: ObjectiveConfig, measured: MeasureRows | None
) -> Trainers:
    """Both forms of training on the training rows, which are put on the devices."""
    training = settings.training
    mesh = checked_mesh(training.devices, settings.workers, training.precision)
    train, held_out = dataset.train(), dataset.test()
    learned_from = (train, held_out) if training.held_out == "progressive" else (train,)
    most_distinct = max(max_distinct(part.sparse, shape.batch_size) for part in learned_from)
    data = on_devices((train.sparse, train.dense, train.labels), mesh, shape.batch_size)
    warmup_steps = max(1, round(training.warmup_share * shape.num_steps))
    schedule = Schedule(jnp.int32(shape.num_steps), jnp.int32(warmup_steps))
    device = jax.local_devices()[0]
    cache, states = ProgramCache(), States(settings.state_bytes or state_bytes(device))
    compact = CompactPrograms(
        data, schedule, shape, cache, states, training.precision, most_distinct, mesh
    )
    programs = LanePrograms(
        data, schedule, shape, cache, jnp.dtype(training.precision), most_distinct
    )
    costs = CostModel(settings.prior or prior(jax.default_backend(), shape.has_small_batches))
    lanes = _lanes(programs, states, settings)
    choice = Choice(
        compact,
        lanes,
        costs,
        setting=settings.executor,
        workers=settings.workers,
        expected=settings.expected_trials,
        only_compact=only_compact(settings),
    )
    num_metrics = len(METRICS[settings.head])
    scored = None if measured is None else ScoredPrograms(compact, measured)
    return Trainers(compact, lanes, choice, costs, training.precision, num_metrics, scored)


def only_compact(settings: ObjectiveConfig) -> str:
    """Why no trial can train in a population; empty if one can.

    Raises:
        ValueError: a measure that needs scores, and a model over several devices, or slices as well.
    """
    alone, slices = settings.training.devices == 1, settings.slices
    if settings.measure == NE and slices is None:
        return "" if alone else f"training.devices={settings.training.devices}"
    if slices is None:
        wanted, without = f"search.metric={settings.measure}", "search.metric=ctr"
    else:
        wanted, without = f"slices={slices.field}", "slices=null"
        if settings.measure != NE:
            raise ValueError(f"{wanted} and search.metric={settings.measure} exclude each other")
    if not alone:
        raise ValueError(
            f"{wanted} needs the scores of every row, which a model over several devices does not give; write "
            f"training.devices=1, or {without}"
        )
    return f"{wanted} needs scores"


def _lanes(programs: LanePrograms, states: States, settings: ObjectiveConfig) -> LanePool:
    first_only = 1 if jax.default_backend() == "cpu" else None
    capacities = settings.capacities
    if capacities is not None:
        capacities = shared(capacities, programs.shape.batch_size, jax.default_backend())
    return LanePool(
        programs,
        states,
        settings.lane_devices or jax.local_devices()[:first_only],
        capacities,
        settings.at_once,
        settings.max_lanes,
    )
