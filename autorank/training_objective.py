"""Training on data as an objective: each configuration in one pass over the log, alone or in a population."""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.cost import compiled_flops, flops_per_example, measure_qps, num_parameters
from autorank.data.batches import Dataset
from autorank.models.dhen import DhenConfig, compact, structure_key
from autorank.models.heads import METRICS
from autorank.models.plans import Plan
from autorank.objectives import Objective, Outcome, Trained, predict_rows
from autorank.results import described
from autorank.training import executor as executors
from autorank.training import sharded
from autorank.training.executor import CostModel, Work, choose
from autorank.training.groups import (
    Device,
    GroupResult,
    Shape,
    dense_size,
    form_groups,
    free_bytes,
    make_groups,
    member_bytes,
)
from autorank.training.pipeline import Job, Lane, run_jobs
from autorank.training.programs import ProgramCache, compiler_options, lower
from autorank.training.tables import max_distinct
from autorank.training.trainer import (
    Curve,
    Data,
    Hparams,
    Program,
    Schedule,
    TrainState,
    lifetime_ne,
    make_program,
    window_ne,
    zero_hparams,
)

LOG = logging.getLogger(__name__)
# One model too big for the device is a failed trial, not the end of the search.
FAILURES = (jax.errors.JaxRuntimeError, MemoryError)


class Setting(NamedTuple):
    """A configuration, decoded: what is compiled and what is only passed in."""

    model: DhenConfig
    hparams: Hparams


class _States:
    """The most recent training states, bounded in bytes, so that promotion and scoring need not retrain."""

    def __init__(self, limit_bytes: int) -> None:
        self._states: OrderedDict[tuple, tuple[TrainState, int]] = OrderedDict()
        self._limit, self._lock = limit_bytes, threading.Lock()

    def __contains__(self, key: tuple) -> bool:
        with self._lock:
            return key in self._states

    @property
    def limit(self) -> int:
        """Bytes."""
        return self._limit

    def pop(self, key: tuple) -> TrainState | None:
        with self._lock:
            found = self._states.pop(key, None)
        return found[0] if found else None

    def put(self, key: tuple, state: TrainState) -> None:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        with self._lock:
            self._states[key] = (state, size)
            while sum(s for _, s in self._states.values()) > self._limit:
                self._states.popitem(last=False)


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
    qps_seconds: float = 0.5,
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
    mesh = None if devices == 1 else sharded.device_mesh(devices)
    if mesh is not None and workers > 1:
        raise ValueError(
            f"training.devices={devices} with search.workers={workers}: programs that exchange rows over the same "
            "devices wait for each other for ever if they overlap; write search.workers=1 (or workers=1 when tuning)"
        )

    if mesh is not None and precision != "float32":
        raise ValueError(
            f"training.precision={precision} with training.devices={devices}: a model that is spread over devices "
            "trains in float32; write training.precision=float32"
        )
    learned_from = (train, held_out) if progressive else (train,)
    most_distinct = max(max_distinct(part.sparse, batch_size) for part in learned_from)

    if mesh is None:
        data = Data(
            jnp.asarray(train.sparse),
            jnp.asarray(train.dense, jnp.float32),
            jnp.asarray(train.labels, jnp.float32),
        )
    else:
        data = sharded.place(train.sparse, train.dense, train.labels, mesh, batch_size)
    schedule = Schedule(jnp.int32(num_steps), jnp.int32(max(1, round(warmup_share * num_steps))))
    cache, states = ProgramCache(), _States(state_bytes)
    shape = Shape(num_fields, num_dense, schema.num_ids, batch_size, num_windows, num_steps)
    backend = jax.default_backend()
    costs = CostModel(prior or executors.prior(backend))
    places = list(
        group_devices or (jax.local_devices()[:1] if backend == "cpu" else jax.local_devices())
    )
    # A population on CPUs keeps one core busy, so several share the memory; on an accelerator it has it for itself.
    side_by_side = workers if backend == "cpu" else 1
    most = [group_size]  # models of a group; halved by every group that was too large
    lanes: dict[Any, Lane] = {device: Lane(side_by_side) for device in places}
    # Work that is queued on an accelerator keeps its thread waiting: half of them go on compiling.
    lanes["compact"] = Lane(workers if backend == "cpu" else max(1, workers // 2), elastic=True)
    groups = make_groups(
        data,
        schedule,
        shape,
        cache,
        dtype=jnp.dtype(precision),
        most_distinct=most_distinct,
        clock=time.perf_counter,
    )
    predictors, followers = ProgramCache(), ProgramCache()

    def program_of(model: DhenConfig) -> Program:
        single = partial(make_program, max_distinct=most_distinct, precision=precision)
        build = single if mesh is None else partial(sharded.make_sharded_program, mesh=mesh)
        return build(
            compact(model, num_fields, num_dense),
            head=model.head,
            width=model.width,
            num_ids=schema.num_ids,
            batch_size=batch_size,
            num_windows=num_windows,
        )

    def compiled(model: DhenConfig) -> tuple[tuple[Any, Program], float]:
        def build() -> tuple[Any, Program]:
            program = program_of(model)
            shapes = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(
                    a.shape, a.dtype, sharding=a.sharding if _is_spread(a) else None
                ),
                (jax.random.key(0), program.empty(), zero_hparams(), schedule, data),
            )
            step = jax.ShapeDtypeStruct((), jnp.int32)
            options = {"donate_argnums": 1, "compiler_options": compiler_options()}
            return lower(program.run, *shapes, step, step, **options).compile(), program

        return cache.get(structure_key(model), build)

    def train_compact(
        compiled: tuple[Any, Program], config: np.ndarray, seed: int, setting: Setting, stop: int
    ) -> tuple[TrainState, float]:
        """State after ``stop`` steps, continued where it was left, and the seconds of training."""
        run, program = compiled
        key = (config.tobytes(), int(seed))
        state = states.pop(key)
        if state is None or int(state.step) > stop:
            state = program.empty()
        start = jnp.int32(int(state.step))
        started = time.perf_counter()
        state = run(
            jax.random.key(seed), state, setting.hparams, schedule, data, start, jnp.int32(stop)
        )
        jax.block_until_ready(state.step)
        seconds = time.perf_counter() - started
        states.put(key, state)
        return state, seconds

    def train_to(config: np.ndarray, seed: int) -> TrainState:
        """The state after all training rows."""
        setting = decode(config)
        (program, _) = compiled(setting.model)
        return train_compact(program, config, seed, setting, num_steps)[0]

    def work_of(setting: Setting, rows: int) -> Work:
        flops = float(flops_per_example(setting.model, num_fields, num_dense))
        return Work(structure_key(setting.model), flops, rows)

    def steps_of(fidelity: float) -> int:
        # Whole windows: a label never looks at half a one.
        windows = math.ceil(fidelity * num_windows - 1e-9)
        return math.ceil(windows * num_steps / num_windows)

    def outcome_of(
        curve: Curve, step: int, failed_step: int, stop: int, flops: float, **rest: Any
    ) -> Outcome:
        """``step``: steps that count; ``curve`` of one model, on the host or the device."""
        reached = step * num_windows // num_steps
        windows = np.where(np.arange(num_windows)[:, None] < reached, window_ne(curve), np.nan)
        failed = "" if failed_step < 0 else f"non-finite loss at step {failed_step} of {num_steps}"
        ne = tuple(float(v) for v in lifetime_ne(curve))
        return Outcome(windows, ne, flops, stop * batch_size, failed=failed, **rest)

    def compact_job(
        i: int, config: np.ndarray, seed: int, setting: Setting, stop: int, why: str
    ) -> Job:
        work = work_of(setting, stop * batch_size)

        def prepare() -> Any:
            try:
                found = compiled(setting.model)
            except FAILURES as error:
                return error
            if found[1]:
                costs.compiled("compact", found[1])
            return found

        def train(prepared: Any) -> tuple[list[tuple[int, Outcome]], list[Job]]:
            details: dict[str, Any] = {"executor": "compact", "why": why}
            try:
                if isinstance(prepared, Exception):
                    raise prepared
                state, seconds = train_compact(prepared[0], config, seed, setting, stop)
            except FAILURES as error:
                nothing = np.full((num_windows, len(METRICS[head])), np.nan)
                nan = (float("nan"),) * nothing.shape[1]
                return [
                    (i, Outcome(nothing, nan, work.flops, 0, 0.0, 0.0, described(error), details))
                ], []
            details |= {
                "structure": work.structure,
                "num_parameters": num_parameters(state.params),
            }
            failed_step = int(state.failed_step)
            if failed_step < 0:
                costs.trained("compact", [work], seconds)
            done = outcome_of(
                state.curve,
                int(state.step),
                failed_step,
                stop,
                work.flops,
                seconds=seconds,
                compile_seconds=prepared[1],
                details=details,
            )
            return [(i, done)], []

        return Job(work.structure, prepare, train, "compact")

    def group_job(
        members: Sequence[int],
        batch: Sequence[tuple[np.ndarray, int, Setting]],
        stop: int,
        plan: Plan,
        why: str,
        place: int,
    ) -> Job:
        """``members`` are indices into ``batch``, the trials of a call of ``evaluate``."""
        device = places[place % len(places)]
        configs, seeds, settings = zip(*(batch[i] for i in members), strict=True)
        models, rates = [s.model for s in settings], [s.hparams for s in settings]
        works = [work_of(s, stop * batch_size) for s in settings]

        def prepare() -> Any:
            try:
                found = groups.compile(plan, models, device)
            except FAILURES as error:
                return error
            if found[1]:
                costs.compiled("population", found[1], plan.size)
            return found

        def train(prepared: Any) -> tuple[list[tuple[int, Outcome]], list[Job]]:
            try:
                if isinstance(prepared, Exception):
                    raise prepared
                result = groups.train(prepared[0], plan, models, seeds, rates, device, stop)
            except FAILURES as error:
                return [], smaller(error)
            costs.trained("population", works, result.seconds)
            failed_steps = [int(f) for f in result.failed_steps]
            found = []
            for at, (i, work, failed) in enumerate(zip(members, works, failed_steps, strict=False)):
                details = {
                    "executor": "population",
                    "why": why,
                    "precision": precision,
                    "models": len(members),
                    "structure": work.structure,
                    "num_parameters": dense_size(models[at], shape),
                }
                done = outcome_of(
                    Curve(*(c[:, at] for c in result.curves)),
                    stop if failed < 0 else failed + 1,
                    failed,
                    stop,
                    work.flops,
                    seconds=result.seconds / len(members),
                    compile_seconds=prepared[1] / len(members),
                    details=details,
                )
                found.append((i, done))
            keep_best(result, found)
            return found, []

        def keep_best(result: GroupResult, found: Sequence[tuple[int, Outcome]]) -> None:
            """The members that a search will most likely ask for again, as many as the cache of states holds."""
            alive = [at for at, (_, done) in enumerate(found) if not done.failed]
            alive.sort(key=lambda at: found[at][1].ne[0])
            room = states.limit // max(member_bytes(model, shape) for model in models)
            try:
                for at in reversed(alive[:room]):
                    key = (configs[at].tobytes(), int(seeds[at]))
                    states.put(key, groups.member(result, models, rates, at))
            except FAILURES as error:
                LOG.info("states of a population are not kept: %s", described(error))

        def smaller(error: Exception) -> list[Job]:
            reason = f"a population of {len(members)} failed: {described(error)}"
            LOG.warning("%s; its trials are tried in smaller ones", reason)
            if len(members) == 1:
                i = members[0]
                return [compact_job(i, *batch[i], stop, reason)]
            half = len(members) // 2
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                most[0] = min(most[0] or half, half)
            return [
                group_job(part, batch, stop, groups.plan([batch[i][2].model for i in part]), reason, place)
                for part in (members[:half], members[half:])
            ]  # fmt: skip

        return Job(f"population on {device}: {plan}", prepare, train, device)

    def evaluate(
        configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        configs = np.asarray(configs, np.int32)
        stop = steps_of(fidelity)
        batch = [(c, int(s), decode(c)) for c, s in zip(configs, seeds, strict=True)]
        whys: dict[int, str] = {}
        if mesh is not None:
            whys = dict.fromkeys(range(len(batch)), f"training.devices={devices}")
        elif executor == "compact":
            whys = dict.fromkeys(range(len(batch)), "search.executor=compact")
        else:
            for i, (config, seed, _) in enumerate(batch):
                if (config.tobytes(), seed) in states:
                    whys[i] = "continues an earlier run"
        open_ = [i for i in range(len(batch)) if i not in whys]
        jobs: list[Job] = []
        formed = form_groups(
            [batch[i][2].model for i in open_],
            shape,
            free=min(map(free_bytes, places)) // side_by_side if open_ else 0,
            # On an accelerator a group for each thread: compiling takes longer than training.
            parts=len(places) if backend == "cpu" else max(len(places), workers),
            limit=most[0],
        )
        for number, group in enumerate(formed):
            members = [open_[i] for i in group]
            settings = [batch[i][2] for i in members]
            plan = groups.plan([s.model for s in settings])
            works = [work_of(s, stop * batch_size) for s in settings]
            there = {w.structure for w in works if w.structure in cache}
            share = max(1, workers // len(formed))
            decision = choose(works, plan, there, groups.known(), share, costs.costs, executor)
            LOG.info("%s: %s", decision.kind, decision.reason)
            if decision.kind == "population":
                jobs.append(group_job(members, batch, stop, plan, decision.reason, number))
            else:
                whys |= dict.fromkeys(members, decision.reason)
        jobs += [compact_job(i, *batch[i], stop, why) for i, why in sorted(whys.items())]
        yield from run_jobs(jobs, workers, lanes)

    def cost(configs: np.ndarray) -> np.ndarray:
        return np.array(
            [flops_per_example(decode(c).model, num_fields, num_dense) for c in configs], np.float64
        )

    def whole(state: TrainState) -> tuple[Any, jax.Array]:
        """Copies of the parameters and the table on one device."""
        if mesh is None:
            return jax.tree.map(jnp.copy, (state.params, state.table.rows))
        return sharded.on_one_device(state, schema.num_ids)

    def trained(config: np.ndarray, seed: int) -> Trained:
        config = np.asarray(config, np.int32)
        state = train_to(config, seed)
        # Copied: the cached state is donated if the configuration is ever continued.
        params, rows = whole(state)
        model = decode(config).model
        predict = predictors.get(structure_key(model), lambda: jax.jit(program_of(model).predict))[
            0
        ]
        return Trained(model, params, rows, predict, METRICS[head])

    def test(config: np.ndarray, seed: int) -> np.ndarray:
        if not progressive:
            return predict_rows(trained(config, seed), held_out.sparse, held_out.dense)
        setting = decode(np.asarray(config, np.int32))
        state = train_to(np.asarray(config, np.int32), seed)
        follow = followers.get(
            structure_key(setting.model), lambda: jax.jit(program_of(setting.model).follow)
        )[0]
        later = padded(held_out, batch_size)
        if mesh is not None:
            later = sharded.place(*later, mesh, batch_size)
        found = follow(state, setting.hparams, schedule, later)
        return np.asarray(found, np.float64)[: len(held_out.sparse)]

    def qps(config: np.ndarray) -> float:
        model = decode(np.asarray(config, np.int32)).model
        program = program_of(model)
        params, table = whole(program.empty())
        rows = min(4096, schema.num_train)
        return measure_qps(
            jax.jit(lambda p, x, d: program.predict(p, table, x, d)),
            params,
            jnp.asarray(train.sparse[:rows]),
            jnp.asarray(train.dense[:rows], jnp.float32),
            qps_seconds,
        )

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
        compiled_flops=lambda config: float(
            compiled_flops(decode(np.asarray(config, np.int32)).model, num_fields, num_dense)
        ),
        test_labels=np.asarray(held_out.labels, np.float64),
    )


def _is_spread(array: jax.Array) -> bool:
    return isinstance(array.sharding, jax.sharding.NamedSharding)


def padded(data: Dataset, batch_size: int) -> Data:
    """Rows on the device, the last ones repeated up to a whole batch."""

    def pad(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, ((0, -len(rows) % batch_size), (0, 0)), mode="edge")

    return Data(
        jnp.asarray(pad(data.sparse)),
        jnp.asarray(pad(data.dense), jnp.float32),
        jnp.asarray(pad(data.labels), jnp.float32),
    )
