"""Many different models as one program: every module runs once over just the instances that hold it.

A masked model (`masked`) computes every module in every slot and throws most of it away. Here the slots of all models
of a population are *routed*: each `Bank` runs one module over the ``n`` (model, slot) pairs of a layer that hold it,
and the results go back to their models. The work is that of the modules in use, padded to the largest sizes of the
bank, so that a hundred architectures train side by side at about the cost of their own modules.

Which slots go where is data (`Routing`): populations that fit the same `Plan` share one program. Models that end early
leave the program early. All models of a plan have one width. Weights beyond a model's own sizes are replaced by zeros,
as in the masked build.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.models.blocks import IN, Active, Leaf, Norm, call, is_leaf, leaves, mix, prefix
from autorank.models.dhen import (
    MAX_DEPTH,
    DhenConfig,
    canonical,
    layer_outputs,
    layers,
    parameters,
)
from autorank.models.embedding import Embedding, num_embeddings
from autorank.models.heads import NUM_LOGITS, Head
from autorank.models.interactions import MODULES, USES, Sizes
from autorank.typing import Array, Bool, Float, Int, PyTree

MAX_FLAT_WIDTH = (
    32  # wider, the extra arithmetic of `Plan.flat` costs more than the transposes that it spares
)
PADDED = ("rank", "kernel", "mlp_depth", "mlp_width")  # sizes that a bank pads to its largest


class Bank(NamedTuple):
    """Instances of one module that run side by side in a layer; static."""

    module: str
    heads: int  # the same for all instances, 1 without attention
    rank: int
    kernel: int
    mlp_depth: int
    mlp_width: int
    count: int


class LayerPlan(NamedTuple):
    """One layer of all models that have it; static."""

    size: int  # models that have it
    inputs: int  # embeddings coming in, at most
    outputs: int
    banks: tuple[Bank, ...]
    reshapes: bool  # some model's number of embeddings changes
    has_pre: bool
    has_post: bool

    @property
    def instances(self) -> int:
        """``i``, over all banks."""
        return sum(bank.count for bank in self.banks)

    @property
    def starts(self) -> list[int]:
        """First instance of each bank."""
        ends = np.cumsum([bank.count for bank in self.banks])
        return [int(end) - bank.count for end, bank in zip(ends, self.banks, strict=True)]


class Plan(NamedTuple):
    """What a population program can hold; static, hashable: one program each."""

    size: int  # p, models
    width: int
    slots: int
    tokens: tuple[int, ...]  # numbers of tokens that a module may put out
    layers: tuple[LayerPlan, ...]
    positions: int  # embeddings that reach a head, at most
    head_depth: int
    head_width: int
    has_concat: bool
    head: str
    loose: bool = (
        False  # has room to spare: fewer or smaller models fit too, at the cost of some masks
    )
    flat: bool = False  # see `interactions.Sizes`
    kernels: str = ""  # likewise
    remat: bool = (
        False  # layers are computed again in the backward pass: memory of one instead of all
    )

    @property
    def instances(self) -> int:
        """Over all layers."""
        return sum(layer.instances for layer in self.layers)


class LayerRouting(NamedTuple):
    """One layer of one population; models in the order of depth, ``q`` of them, ``s`` slots, ``i`` instances."""

    positions: Int[Array, " q"]  # embeddings coming in
    outputs: Int[Array, " q"]
    on: Bool[Array, " q"]  # has this layer
    model: Int[Array, " i"]  # whose slot each instance is; q = nobody's
    slot: Int[Array, "q s"]  # which instance fills each slot; i = none
    sizes: dict[str, Int[Array, " i"]]  # of each instance, by the names in `PADDED`


class Routing(NamedTuple):
    """One population within a plan, as arrays; per model in the caller's order unless said otherwise."""

    order: Int[Array, " p"]  # the models, deepest first: the order within layers
    place: Int[Array, " p"]  # its inverse
    positions: Int[Array, " p"]  # embeddings that reach the head
    head_depth: Int[Array, " p"]
    head_width: Int[Array, " p"]
    num_tokens: Int[Array, " p"]  # these five by depth
    concat: Bool[Array, " p"]
    weighted: Bool[Array, " p"]
    pre: Bool[Array, " p"]
    post: Bool[Array, " p"]
    layers: tuple[LayerRouting, ...]


class Population(NamedTuple):
    """Functions of a plan; the caller compiles them."""

    # params, x [p, b, f, d], dense [b, n], routing -> logits [p, b, t]
    apply: Callable[[PyTree, Array, Array, Routing], Array]
    tree: PyTree  # of `Leaf`: every parameter's shape and axes, of one model or instance


def plan_of(
    configs: Sequence[DhenConfig], num_fields: int, num_dense: int, *, headroom: float = 1.0
) -> Plan:
    """The smallest plan that holds ``configs``; with ``headroom`` above 1 other populations fit, too.

    Raises:
        ValueError: no configuration, several widths or several heads.
    """
    found = _deepest_first(configs)
    for name in ("width", "head"):
        values = sorted({getattr(config, name) for config in found})
        if len(values) != 1:
            raise ValueError(
                f"one population has one model.{name}, got {values}; plan one population for each"
            )
    positions = [num_embeddings(num_fields, num_dense)] * len(found)
    planned = []
    for index in range(found[0].num_layers):
        alive = [config for config in found if config.num_layers > index]
        stack = [layers(config)[index] for config in alive]
        outputs = [
            layer_outputs(config, layer, at)
            for config, layer, at in zip(alive, stack, positions, strict=False)
        ]
        counts: Counter[tuple[str, int]] = Counter()
        largest: dict[tuple[str, int], dict[str, int]] = {}
        for config, layer in zip(alive, stack, strict=True):
            for module in layer.modules:
                key = bank_key(module, config)
                counts[key] += 1
                sizes = largest.setdefault(key, dict.fromkeys(PADDED, 1))
                for name in PADDED:
                    sizes[name] = max(sizes[name], _size(config, module, name))
        planned.append(
            LayerPlan(
                size=len(found) if headroom > 1 else len(alive),
                inputs=max(positions if headroom > 1 else positions[: len(alive)]),
                outputs=max([*outputs, *(positions[len(alive) :] if headroom > 1 else [])]),
                banks=tuple(
                    Bank(*key, **largest[key], count=int(np.ceil(headroom * count - 1e-9)))
                    for key, count in sorted(counts.items())
                ),
                reshapes=outputs != positions[: len(alive)],
                has_pre=any(config.norm == "pre" for config in alive),
                has_post=any(config.norm == "post" for config in alive),
            )
        )
        positions[: len(alive)] = outputs
    return Plan(
        size=len(found),
        width=found[0].width,
        slots=max(1, *(len(layer.modules) for config in found for layer in layers(config))),
        tokens=tuple(sorted({config.num_tokens for config in found})),
        layers=tuple(planned),
        positions=max(positions),
        head_depth=max(config.head_depth for config in found),
        head_width=max(config.head_width for config in found),
        has_concat=any(config.ensemble == "concat" for config in found),
        head=found[0].head,
        loose=headroom > 1,
    )


def tuned(plan: Plan, backend: str) -> Plan:
    """The plan in the forms that are fastest on a backend (`jax.default_backend`); equal up to rounding."""
    return plan._replace(
        flat=backend != "cpu" and plan.width <= MAX_FLAT_WIDTH,
        kernels="gpu" if backend == "gpu" else "",
    )


def bank_key(module: str, config: DhenConfig) -> tuple[str, int]:
    """What the instances of one bank have in common."""
    return module, _size(config, module, "heads")


def routing(plan: Plan, configs: Sequence[DhenConfig], num_fields: int, num_dense: int) -> Routing:
    """The arrays that make a program of ``plan`` compute ``configs``; places to spare compute nothing of use.

    Raises:
        ValueError: they do not fit, by name.
    """
    found = [canonical(config) for config in configs]
    reason = misfit(plan, found, num_fields, num_dense)
    if reason:
        raise ValueError(reason)
    size = plan.size
    depth = np.array([c.num_layers for c in found] + [0] * (size - len(found)))
    order = np.argsort(-depth, kind="stable")
    filled = found + [found[0]] * (size - len(found))
    by_depth = [filled[p] for p in order]
    depth = depth[order]
    positions = [num_embeddings(num_fields, num_dense)] * size
    routed = []
    for index, layer in enumerate(plan.layers):
        model = np.full(layer.instances, layer.size, np.int32)
        slot = np.full((layer.size, plan.slots), layer.instances, np.int32)
        sizes = {name: np.ones(layer.instances, np.int32) for name in PADDED}
        free = {bank[:2]: start for bank, start in zip(layer.banks, layer.starts, strict=True)}
        before = positions[: layer.size]
        for q in range(layer.size):
            if index >= depth[q]:
                continue
            config, own = by_depth[q], layers(by_depth[q])[index]
            positions[q] = layer_outputs(config, own, positions[q])
            for s, module in enumerate(own.modules):
                key = bank_key(module, config)
                place = free[key]
                free[key] = place + 1
                model[place], slot[q, s] = q, place
                for name in PADDED:
                    sizes[name][place] = _size(config, module, name)
        routed.append(
            LayerRouting(
                positions=jnp.asarray(np.array(before, np.int32)),
                outputs=jnp.asarray(np.array(positions[: layer.size], np.int32)),
                on=jnp.asarray(depth[: layer.size] > index),
                model=jnp.asarray(model),
                slot=jnp.asarray(slot),
                sizes={name: jnp.asarray(value) for name, value in sizes.items()},
            )
        )
    place = np.argsort(order)

    def numbers(name: str, models: Sequence[DhenConfig]) -> Array:
        return jnp.asarray(np.array([getattr(config, name) for config in models], np.int32))

    def marks(name: str, value: str) -> Array:
        return jnp.asarray(np.array([getattr(config, name) == value for config in by_depth]))

    return Routing(
        order=jnp.asarray(order.astype(np.int32)),
        place=jnp.asarray(place.astype(np.int32)),
        positions=jnp.asarray(np.array(positions, np.int32)[place]),
        head_depth=numbers("head_depth", filled),
        head_width=numbers("head_width", filled),
        num_tokens=numbers("num_tokens", by_depth),
        concat=marks("ensemble", "concat"),
        weighted=marks("ensemble", "weighted"),
        pre=marks("norm", "pre"),
        post=marks("norm", "post"),
        layers=tuple(routed),
    )


def misfit(plan: Plan, configs: Sequence[DhenConfig], num_fields: int, num_dense: int) -> str:
    """Why ``configs`` do not fit the plan together, or ""."""
    found = [canonical(config) for config in configs]
    if not found or len(found) > plan.size or (len(found) < plan.size and not plan.loose):
        return f"{len(found)} models for plan.size={plan.size}"
    for config in found:
        if config.width != plan.width or config.head != plan.head:
            return f"model.width={config.width}, model.head={config.head} are not the plan's"
    own = plan_of(found, num_fields, num_dense)
    if len(own.layers) > len(plan.layers):
        return f"{len(own.layers)} layers are beyond the plan's {len(plan.layers)}"
    for name in ("slots", "positions", "head_depth", "head_width", "has_concat"):
        if getattr(own, name) > getattr(plan, name):
            return f"{name}={getattr(own, name)} is beyond plan.{name}={getattr(plan, name)}"
    if not set(own.tokens) <= set(plan.tokens):
        return f"num_tokens={own.tokens} are not in plan.tokens={plan.tokens}"
    for index, layer in enumerate(plan.layers):
        mine = own.layers[index] if index < len(own.layers) else None
        if not plan.loose and (mine is None or mine.size != layer.size):
            return f"layer {index + 1}: the plan is for {layer.size} models that have it"
        if mine is None:
            continue
        for name in ("inputs", "outputs", "reshapes", "has_pre", "has_post"):
            if getattr(mine, name) > getattr(layer, name):
                return f"layer {index + 1}: {name}={getattr(mine, name)} is beyond the plan's"
        room = {bank[:2]: bank for bank in layer.banks}
        for bank in mine.banks:
            held = room.get(bank[:2])
            if held is None:
                return f"layer {index + 1}: no bank for {bank}"
            for name in (*PADDED, "count"):
                if getattr(bank, name) > getattr(held, name):
                    return f"layer {index + 1}: {bank.module}.{name}={getattr(bank, name)} is beyond the plan's"
    return ""


def population(plan: Plan, num_fields: int, num_dense: int) -> Population:
    """The program of a plan, on parameters with a leading axis of models or instances."""
    tree = _parameters(plan, num_fields, num_dense)
    axes = {"positions": plan.positions, "width": plan.width}
    embedding = Embedding(plan.width)
    head = Head(axes, plan.head_depth, plan.head_width, NUM_LOGITS[plan.head])

    def apply(params: PyTree, x: Array, dense: Array, routing: Routing) -> Array:
        x = jax.vmap(lambda p, x: call(embedding, p, x, dense))(params["embedding"], x)
        x = _permute(x, routing.order, routing.place)
        ended: list[Array] = []
        for index, layer in enumerate(plan.layers):
            run = partial(_layer, plan, layer, tree["layers"][index])
            run = jax.checkpoint(run) if plan.remat else run
            ended.insert(0, x[layer.size :])
            x = _fit(x[: layer.size], layer.inputs)
            x = run(params["layers"][index], x, routing, routing.layers[index])
        parts = [_fit(part, plan.positions) for part in (x, *ended) if part.shape[0]]
        x = _permute(jnp.concatenate(parts), routing.place, routing.order)

        def logits(params: PyTree, x: Array, positions: Array, depth: Array, width: Array) -> Array:
            counts = _counts(positions, positions, head=(depth, width))
            return call(head, _cut(params, tree["head"], counts), x, depth)

        return jax.vmap(logits)(
            params["head"], x, routing.positions, routing.head_depth, routing.head_width
        )

    return Population(apply, tree)


def _layer(
    plan: Plan,
    layer: LayerPlan,
    tree: PyTree,
    params: PyTree,
    x: Array,
    routing: Routing,
    at: LayerRouting,
) -> Float[Array, "q b l d"]:
    """One layer of the models that have it, ``x [q, b, m, d]`` in the order of depth."""
    norm, q = Norm({"width": plan.width}), slice(layer.size)

    def normed(x: Array, chosen: Array, counts: Array) -> Array:
        def one(params: PyTree, x: Array, chosen: Array, count: Array) -> Array:
            inside = prefix(x.shape[1], count)[None, :, None]
            return jnp.where(chosen, jnp.where(inside, call(norm, params, x), 0), x)

        return jax.vmap(one)(params["norm"], x, chosen, counts)

    before = normed(x, routing.pre[q], at.positions) if layer.has_pre else x
    y = _fit(x, layer.outputs)
    if layer.reshapes:
        mixed = jax.vmap(partial(_mix, tree["shortcut"], plan.flat))(
            x, params["shortcut"], at.positions, at.outputs
        )
        y = jnp.where((at.positions == at.outputs)[:, None, None, None], y, mixed)
    if layer.banks:
        inputs: Any = _dispatch(
            before, at.model, at.slot, tuple(bank.count for bank in layer.banks)
        )
        parts = []
        for k, (bank, start) in enumerate(zip(layer.banks, layer.starts, strict=True)):
            here = slice(start, start + bank.count)
            owner = jnp.minimum(at.model[here], layer.size - 1)
            module = MODULES[bank.module](_sizes(plan, layer, bank))

            def part(
                params: PyTree,
                x: Array,
                positions: Array,
                tokens: Array,
                sizes: dict,
                module: Any = module,
                leaf_tree: PyTree = tree["banks"][k],
            ) -> Array:
                counts = _counts(positions, positions, tokens=tokens, sizes=sizes)
                active = Active(positions, None, sizes["rank"], None, sizes["mlp_depth"])
                return call(module, _cut(params, leaf_tree, counts), x, active)

            parts.append(
                jax.vmap(part)(
                    params["banks"][k],
                    inputs[k],
                    at.positions[owner],
                    routing.num_tokens[owner],
                    {name: size[here] for name, size in at.sizes.items()},
                )
            )
        filled = _combine(tuple(parts), at.model, at.slot)
        y = y + _assemble(filled, params["scale"], routing, plan, layer)
    if layer.has_post:
        y = normed(y, routing.post[q], at.outputs)
    return jnp.where(at.on[:, None, None, None], y, _fit(x, layer.outputs)) if plan.loose else y


def _deepest_first(configs: Sequence[DhenConfig]) -> list[DhenConfig]:
    found = sorted(map(canonical, configs), key=lambda config: -config.num_layers)
    if not found:
        raise ValueError("a population needs at least one configuration")
    return found


def _size(config: DhenConfig, module: str, name: str) -> int:
    return getattr(config, name) if module in USES[name] else 1


def _sizes(plan: Plan, layer: LayerPlan, bank: Bank) -> Sizes:
    return Sizes(
        layer.inputs,
        max(plan.tokens),
        plan.width,
        bank.rank,
        bank.heads,
        bank.kernel,
        bank.mlp_depth,
        bank.mlp_width,
        plan.flat,
        plan.kernels,
    )


def _fit(x: Float[Array, "q b m d"], positions: int) -> Array:
    """Cut or padded to ``positions`` embeddings; what is cut is inactive."""
    if x.shape[2] >= positions:
        return x[:, :, :positions]
    return jnp.pad(x, ((0, 0), (0, 0), (0, positions - x.shape[2]), (0, 0)))


# --- routing: two linear maps, each the other's transpose, written so that neither needs a scatter ------------------


@jax.custom_vjp
def _permute(x: Array, order: Int[Array, " p"], place: Int[Array, " p"]) -> Array:
    """``x[order]``; ``place`` is the inverse of ``order``."""
    return x.at[order].get(mode="promise_in_bounds", unique_indices=True)


def _permute_fwd(x: Array, order: Array, place: Array) -> tuple:
    return _permute(x, order, place), place


def _permute_bwd(place: Array, gradient: Array) -> tuple:
    return _permute(gradient, place, place), None, None


_permute.defvjp(_permute_fwd, _permute_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dispatch(x: Array, model: Array, slot: Array, counts: tuple[int, ...]) -> list[Array]:
    """Each instance's input, one array ``[n, b, m, d]`` for each bank of ``n``."""
    return _split(x, model, counts)


def _split(x: Array, model: Array, counts: tuple[int, ...]) -> list[Array]:
    ends = np.cumsum(counts)
    return [
        x.at[model[end - count : end]].get(mode="fill", fill_value=0)
        for end, count in zip(map(int, ends), counts, strict=True)
    ]


def _dispatch_fwd(x: Array, model: Array, slot: Array, counts: tuple[int, ...]) -> tuple:
    return _split(x, model, counts), (model, slot)


def _dispatch_bwd(counts: tuple[int, ...], saved: tuple, gradient: list[Array]) -> tuple:
    _, slot = saved
    return sum(_gather_slots(gradient, slot)), None, None


_dispatch.defvjp(_dispatch_fwd, _dispatch_bwd)


def _gather_slots(parts: Sequence[Array], slot: Array) -> list[Array]:
    joined = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    return [joined.at[slot[:, s]].get(mode="fill", fill_value=0) for s in range(slot.shape[1])]


@jax.custom_vjp
def _combine(parts: tuple[Array, ...], model: Array, slot: Array) -> list[Array]:
    """What fills each slot, an array ``[q, b, l, d]`` for each, zeros where nothing does; parts: ``[n, b, l, d]``."""
    return _gather_slots(parts, slot)


def _combine_fwd(parts: tuple[Array, ...], model: Array, slot: Array) -> tuple:
    return _gather_slots(parts, slot), (model, slot, [p.shape[0] for p in parts])


def _combine_bwd(saved: tuple, gradient: list[Array]) -> tuple:
    model, slot, counts = saved
    # Instance i fills slot s of model[i]; s is found by comparing, so that no scatter is needed.
    size = slot.shape[0]
    numbers = jnp.arange(model.shape[0])
    owner = jnp.minimum(model, size - 1)
    stacked = jnp.concatenate(gradient)  # slot-major: row s * p + model
    which = jnp.argmax(slot[owner] == numbers[:, None], axis=1)
    row = jnp.where(model < size, which * size + owner, stacked.shape[0])
    return tuple(_split(stacked, row, tuple(counts))), None, None


_combine.defvjp(_combine_fwd, _combine_bwd)


def _assemble(
    filled: Sequence[Array],
    scale: Float[Array, "q s"],
    routing: Routing,
    plan: Plan,
    layer: LayerPlan,
) -> Float[Array, "q b l d"]:
    """Sum or concatenation of the slots ``[q, b, tokens, d]``, in the layer's positions."""
    total: Any = 0
    q = slice(layer.size)
    num_tokens, concat = routing.num_tokens[q], routing.concat[q]
    for s, part in enumerate(filled):
        factor = jnp.where(routing.weighted[q], scale[:, s], 1.0).astype(part.dtype)
        if len(plan.tokens) > 1:  # what a padded norm puts beyond the tokens is not the model's
            inside = jax.vmap(partial(prefix, part.shape[2]))(num_tokens)
            part = jnp.where(inside[:, None, :, None], part, 0)
        part = part * factor[:, None, None, None]
        placed = _fit(part, layer.outputs)
        if s and plan.has_concat:
            # A few static shifts and a choice between them: elementwise, where a dynamic shift would be a gather.
            for tokens in plan.tokens:
                if s * tokens < layer.outputs:
                    shifted = jnp.pad(part, ((0, 0), (0, 0), (s * tokens, 0), (0, 0)))
                    moved = (concat & (num_tokens == tokens))[:, None, None, None]
                    placed = jnp.where(moved, _fit(shifted, layer.outputs), placed)
        total = total + placed
    return total


def _mix(
    leaf: Leaf, flat: bool, x: Array, weight: Array, positions: Array, outputs: Array
) -> Float[Array, "b l d"]:
    return mix(x, _cut(weight, leaf, _counts(positions, outputs)), flat=flat)


# --- weights of single models ------------------------------------------------------------------------------------


def insert(
    members: Sequence[PyTree],
    configs: Sequence[DhenConfig],
    plan: Plan,
    routing: Routing,
    num_fields: int,
    num_dense: int,
) -> PyTree:
    """Compact parameters of each model (NumPy or JAX) as the population's, NumPy, zero (norm scales one) elsewhere."""
    empty = jax.tree.map(
        lambda leaf, s: np.full(s.shape, 1.0 if leaf.path[-1] == "scale" else 0.0, np.float32),
        _parameters(plan, num_fields, num_dense),
        shapes(plan, num_fields, num_dense),
        is_leaf=is_leaf,
    )
    at = jax.tree.map(np.asarray, routing)
    for p, (config, params) in enumerate(zip(configs, members, strict=True)):
        config = canonical(config)

        def put(leaf: Leaf, value: Any, config: DhenConfig = config, p: int = p) -> None:
            target, index = _find(empty, leaf, config, p, plan, at)
            target[index] = np.asarray(value)

        jax.tree.map(put, parameters(config, num_fields, num_dense), params, is_leaf=is_leaf)
    return empty


def extract(
    params: PyTree,
    config: DhenConfig,
    index: int,
    plan: Plan,
    routing: Routing,
    num_fields: int,
    num_dense: int,
) -> PyTree:
    """Parameters of the compact build of model ``index``, from the population's (NumPy costs no compilation)."""
    config, at = canonical(config), jax.tree.map(np.asarray, routing)

    def take(leaf: Leaf) -> Any:
        value, where = _find(params, leaf, config, index, plan, at)
        return value[where]

    return jax.tree.map(take, parameters(config, num_fields, num_dense), is_leaf=is_leaf)


def _find(
    tree: PyTree, leaf: Leaf, config: DhenConfig, p: int, plan: Plan, at: Routing
) -> tuple[Any, tuple]:
    """The population's array that holds a compact parameter, and its place there."""
    part, *rest = leaf.path
    value: Any = tree.get(part)
    lead = p
    if part.startswith("layer"):
        index = int(part.removeprefix("layer")) - 1
        value, lead = tree["layers"][index], int(at.place[p])
        if rest[0].startswith("slot"):
            slot = int(rest[0].removeprefix("slot"))
            key = bank_key(layers(config)[index].modules[slot], config)
            bank = [b[:2] for b in plan.layers[index].banks].index(key)
            lead = int(at.layers[index].slot[lead, slot]) - plan.layers[index].starts[bank]
            rest = ["banks", bank, *rest[1:]]
    for name in rest:
        value = value[name]
    return value, (lead, *(slice(n) for n in leaf.shape))


def owners(plan: Plan, routing: Routing, num_fields: int, num_dense: int) -> PyTree:
    """Whose each entry of every leaf's leading axis is: numbers of models, in the caller's order."""
    tree = _parameters(plan, num_fields, num_dense)

    def constant(tree: PyTree, value: Array) -> PyTree:
        return jax.tree.map(lambda _: value, tree, is_leaf=is_leaf)

    def of_layer(index: int) -> PyTree:
        layer, at, own = plan.layers[index], routing.layers[index], tree["layers"][index]
        order = routing.order[: layer.size]
        model = order[jnp.minimum(at.model, layer.size - 1)]
        banks = [
            constant(t, model[start : start + bank.count])
            for t, start, bank in zip(own["banks"], layer.starts, layer.banks, strict=True)
        ]
        return {n: constant(own[n], order) for n in ("norm", "scale", "shortcut")} | {
            "banks": banks
        }

    each = jnp.arange(plan.size)
    whole = {n: constant(tree[n], each) for n in ("embedding", "head")}
    return whole | {"layers": [of_layer(i) for i in range(len(plan.layers))]}


def shapes(plan: Plan, num_fields: int, num_dense: int) -> PyTree:
    """`jax.ShapeDtypeStruct` of every parameter array, leading axis included."""
    tree = _parameters(plan, num_fields, num_dense)

    def lead(tree: PyTree, count: int) -> PyTree:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), jnp.float32),
            tree,
            is_leaf=is_leaf,
        )

    def of_layer(layer: LayerPlan, own: PyTree) -> PyTree:
        banks = [lead(t, b.count) for t, b in zip(own["banks"], layer.banks, strict=True)]
        return {n: lead(own[n], layer.size) for n in ("norm", "scale", "shortcut")} | {
            "banks": banks
        }

    whole = {n: lead(tree[n], plan.size) for n in ("embedding", "head")}
    return whole | {
        "layers": [of_layer(*pair) for pair in zip(plan.layers, tree["layers"], strict=True)]
    }


# --- parameters --------------------------------------------------------------------------------------------------


def _parameters(plan: Plan, num_fields: int, num_dense: int) -> PyTree:
    """Tree of `Leaf` with the shapes of one model or instance."""
    dense = jax.ShapeDtypeStruct((1, num_dense), jnp.float32)

    def embeddings(count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, count, plan.width), jnp.float32)

    def of_layer(layer: LayerPlan) -> PyTree:
        x, m = embeddings(layer.inputs), layer.inputs
        return {
            "norm": leaves(Norm({"width": plan.width}), x),
            "scale": Leaf(("scale",), (plan.slots,), ("slots",)),
            "shortcut": Leaf(("shortcut",), (m, layer.outputs), (IN + "positions", "outputs")),
            "banks": [leaves(MODULES[b.module](_sizes(plan, layer, b)), x) for b in layer.banks],
        }

    axes = {"positions": plan.positions, "width": plan.width}
    head = Head(axes, plan.head_depth, plan.head_width, NUM_LOGITS[plan.head])
    return {
        "embedding": leaves(Embedding(plan.width), embeddings(num_fields), dense),
        "layers": [of_layer(layer) for layer in plan.layers],
        "head": leaves(head, embeddings(plan.positions)),
    }


def _counts(
    positions: Array,
    outputs: Array,
    *,
    tokens: Array | None = None,
    sizes: dict[str, Array] | None = None,
    head: tuple[Array, Array] | None = None,
) -> dict[str, Any]:
    """Active length of every axis that is padded here (see `architecture.axis_counts`)."""
    counts: dict[str, Any] = {
        "positions": positions,
        "outputs": outputs,
        "pairs": positions * (positions - 1) // 2,
        "tokens": tokens,
    }
    if sizes is not None:
        depth, width = sizes["mlp_depth"], sizes["mlp_width"]
        counts |= {"rank": sizes["rank"], "taps": sizes["kernel"], "mlp": width}
        counts |= {f"mlp{i}": jnp.where(i <= depth, width, 0) for i in range(1, MAX_DEPTH + 1)}
    if head is not None:
        depth, width = head
        counts |= {"head": width, "tower": width}
        counts |= {f"head{i}": jnp.where(i <= depth, width, 0) for i in range(1, MAX_DEPTH + 1)}
    return {name: count for name, count in counts.items() if count is not None}


def _cut(params: PyTree, tree: PyTree, counts: dict) -> PyTree:
    """Zeros beyond the active prefix of each axis."""

    def one(leaf: Leaf, value: Array) -> Array:
        where = None
        for i, axis in enumerate(leaf.axes):
            count = counts.get(axis.removeprefix(IN))
            if count is not None:
                lead = tuple(j for j in range(value.ndim) if j != i)
                inside = jnp.expand_dims(prefix(value.shape[i], count), lead)
                where = inside if where is None else where & inside
        return value if where is None else jnp.where(where, value, 0)

    return jax.tree.map(one, tree, params, is_leaf=is_leaf)
