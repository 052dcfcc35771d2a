"""Training on data as an objective: each configuration in one pass over the log, alone or in a population."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from autorank.base import measurable
from autorank.base.jax_settings import own_settings, training_choices, training_settings
from autorank.base.programs import ProgramCache
from autorank.data.format.batches import Dataset
from autorank.models.cost import compiled_flops, flops_per_example, measure_qps
from autorank.models.dhen import structure_key
from autorank.models.heads import METRICS
from autorank.objectives import executor as executors
from autorank.objectives.base import Objective, Outcome, Trained, predict_rows
from autorank.objectives.executor import CostModel
from autorank.objectives.jobs import Builds, Rules, lanes_of, make_jobs
from autorank.training import sharded
from autorank.training.compact import Request, Setting, States, make_compact
from autorank.training.groups import Device, Shape, make_groups
from autorank.training.pipeline import run_jobs
from autorank.training.tables import max_distinct
from autorank.training.trainer import Data, Schedule, TrainState


@training_settings()
def training_objective(
    dataset: Dataset,
    decode: Callable[[np.ndarray], Setting],
    *,
    head: str,
    batch_size: int,
    num_windows: int,
    warmup_share: float,
    fingerprint: str,
    progressive: bool = False,
    workers: int = 2,
    devices: int = 1,
    executor: str = "compact",
    precision: str = "float32",
    group_size: int = 0,
    group_devices: Sequence[Device] | None = None,
    prior: executors.Costs | None = None,
    state_bytes: int = 1 << 29,
    qps_seconds: float = 0.15,
) -> Objective:
    """Trains each configuration in one pass over the training rows: alone, or many of them as one population.

    ``decode`` turns a configuration ``[k]`` into a `Setting`. ``workers`` threads compile and train side by side: XLA
    does both outside the interpreter lock. ``executor`` says which build trains (`training.executor`): "compact",
    "population", or "auto" for the faster one by costs that begin as ``prior`` and are measured as it goes; trials
    that continue an earlier run are always compact. ``precision`` is that of matrix products, and of a population's
    activations; sums, weights and scoring are float32. A population
    has at most ``group_size`` models (0: as many as fit the memory) and runs on one of ``group_devices`` (None: all
    accelerators, or the first CPU device). The held-out rows are scored by the frozen model, or with ``progressive`` as
    the training rows are, each batch before it is learned from. Rows beyond the last full batch are left out (fewer
    than ``batch_size``). With ``devices`` other than 1 (0: all) every model is spread over that many (`sharded`).

    Raises:
        ValueError: fewer training rows than ``num_windows`` batches; devices that are not there, do not divide the
            batch, or with more than one worker or another precision than float32.
    """
    train, held_out = dataset.train(), dataset.test()
    schema = dataset.schema
    num_fields, num_dense = len(schema.fields), len(schema.dense)
    num_steps = schema.num_train // batch_size
    if num_steps < num_windows:
        raise ValueError(
            f"training.batch_size={batch_size} gives {num_steps} steps on {schema.num_train} training rows, fewer "
            f"than training.num_windows={num_windows}; lower one of them"
        )
    mesh = checked_mesh(devices, workers, precision)
    learned_from = (train, held_out) if progressive else (train,)
    most_distinct = max(max_distinct(part.sparse, batch_size) for part in learned_from)
    data = on_devices((train.sparse, train.dense, train.labels), mesh, batch_size)
    schedule = Schedule(jnp.int32(num_steps), jnp.int32(max(1, round(warmup_share * num_steps))))
    shape = Shape(
        num_fields,
        num_dense,
        schema.num_ids,
        batch_size,
        num_windows,
        num_steps,
        schema.unknown_ids,
    )
    backend = jax.default_backend()
    choices = training_choices()  # once: a job may change them later

    cache, states = ProgramCache(), States(state_bytes)
    builds = Builds(
        make_compact(
            data,
            schedule,
            shape,
            cache,
            states,
            precision=precision,
            most_distinct=most_distinct,
            mesh=mesh,
        ),
        make_groups(
            data,
            schedule,
            shape,
            cache,
            dtype=jnp.dtype(precision),
            most_distinct=most_distinct,
            clock=time.perf_counter,
        ),
        states,
        cache,
        CostModel(prior or executors.prior(backend)),
    )
    compact = builds.compact
    rules = Rules(
        executor,
        workers,
        list(group_devices or jax.local_devices()[: 1 if backend == "cpu" else None]),
        group_size,
        precision,
        "" if mesh is None else f"training.devices={devices}",
    )
    jobs = make_jobs(builds, rules, shape, len(METRICS[head]))
    lanes = lanes_of(rules)
    predictors, followers = ProgramCache(), ProgramCache()

    def request_of(config: np.ndarray, seed: int) -> Request:
        config = np.asarray(config, np.int32)
        return Request(config, int(seed), decode(config))

    def evaluate(
        configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        # Whole windows: a label never looks at half a one.
        windows = math.ceil(fidelity * num_windows - 1e-9)
        stop = math.ceil(windows * num_steps / num_windows)
        # Not around the results: between two of them the caller's settings hold.
        with own_settings(**choices):
            planned = jobs([request_of(c, s) for c, s in zip(configs, seeds, strict=True)], stop)
        yield from run_jobs(planned, workers, lanes, partial(own_settings, **choices))

    def cost(configs: np.ndarray) -> np.ndarray:
        return np.array(
            [flops_per_example(decode(c).model, num_fields, num_dense) for c in configs], np.float64
        )

    @own_settings(**choices)
    def finished(request: Request) -> TrainState:
        """The state after all training rows."""
        (compiled, _) = compact.compile(request.setting.model)
        return compact.train(compiled, request, num_steps)[0]

    def jitted(programs: ProgramCache, request: Request, name: str) -> Any:
        """A function of the model's program, jitted once for its structure."""
        model = request.setting.model

        def build() -> Any:
            return jax.jit(getattr(compact.program(model), name))

        return programs.get(structure_key(model), build)[0]

    @own_settings(**choices)
    def trained(config: np.ndarray, seed: int) -> Trained:
        request = request_of(config, seed)
        # Copied: the cached state is donated if the configuration is ever continued.
        params, rows = compact.weights(finished(request))
        predict = jitted(predictors, request, "predict")
        return Trained(request.setting.model, params, rows, predict, METRICS[head])

    @own_settings(**choices)
    def test(config: np.ndarray, seed: int) -> np.ndarray:
        if not progressive:
            return predict_rows(trained(config, seed), held_out.sparse, held_out.dense)
        request = request_of(config, seed)
        state = finished(request)
        rows = [padded(a, batch_size) for a in (held_out.sparse, held_out.dense, held_out.labels)]
        later = on_devices(rows, mesh, batch_size)
        follow = jitted(followers, request, "follow")
        found = follow(state, request.setting.hparams, schedule, later)
        return np.asarray(found, np.float64)[: len(held_out.sparse)]

    @own_settings(**choices)
    def qps(config: np.ndarray) -> float:
        request = request_of(config, 0)
        params, table = compact.weights(compact.program(request.setting.model).empty())
        # The one that scores: measured several times a run, it is compiled once.
        predict = jitted(predictors, request, "predict")
        rows = min(4096, schema.num_train)
        return measure_qps(
            lambda p, x, d: predict(p, table, x, d),
            params,
            jnp.asarray(train.sparse[:rows]),
            jnp.asarray(train.dense[:rows], jnp.float32),
            qps_seconds,
        )

    @own_settings(**choices)
    def flops_of_program(config: np.ndarray) -> float:
        model = request_of(config, 0).setting.model
        return float(compiled_flops(model, num_fields, num_dense))

    return Objective(
        name=schema.name,
        fingerprint=fingerprint,
        metrics=METRICS[head],
        num_rows=num_steps * batch_size,
        num_windows=num_windows,
        evaluate=evaluate,
        cost=cost,
        stats=lambda: cache.stats,
        test=test,
        trained=trained,
        qps=qps,
        compiled_flops=flops_of_program,
        test_labels=np.asarray(held_out.labels, np.float64),
        measurable=measurable.windows(
            train.labels[: num_steps * batch_size], METRICS[head], num_steps, num_windows
        ),
        counts=tuple(
            measurable.count(part, rows.labels, metric)
            for part, rows in (("training", train), ("held-out", held_out))
            for metric in METRICS[head]
        ),
    )


def checked_mesh(devices: int, workers: int, precision: str) -> Mesh | None:
    """The devices that every model is spread over; None for one.

    Raises:
        ValueError: devices that are not there, or with more than one worker or another precision than float32.
    """
    if devices == 1:
        return None
    mesh = sharded.device_mesh(devices)
    if workers > 1:
        raise ValueError(
            f"training.devices={devices} with search.workers={workers}: programs that exchange rows over the same "
            "devices wait for each other for ever if they overlap; write search.workers=1 (or workers=1 when tuning)"
        )
    if precision != "float32":
        raise ValueError(
            f"training.precision={precision} with training.devices={devices}: a model that is spread over devices "
            "trains in float32; write training.precision=float32"
        )
    return mesh


def on_devices(rows: Sequence[np.ndarray], mesh: Mesh | None, batch_size: int) -> Data:
    """Sparse ``[r, f]``, dense ``[r, k]`` and labels ``[r, q]``: on one device, or each with its part of a batch."""
    sparse, dense, labels = rows
    if mesh is not None:
        return sharded.place(sparse, dense, labels, mesh, batch_size)
    return Data(
        jnp.asarray(sparse), jnp.asarray(dense, jnp.float32), jnp.asarray(labels, jnp.float32)
    )


def padded(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """The last row repeated up to a whole batch."""
    return np.pad(rows, ((0, -len(rows) % batch_size), (0, 0)), mode="edge")
