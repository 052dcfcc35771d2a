"""Many different models as one program: every module runs once over just the instances that hold it.

A masked model (`masked`) computes every module in every slot and throws most of it away. Here the slots of all models
of a population are *routed*: each `Bank` runs one module over the ``n`` (model, slot) pairs of a layer that hold it,
and the results go back to their models. The work is that of the modules in use, padded to the largest sizes of the
bank, so that a hundred architectures train side by side at about the cost of their own modules.

Which slots go where is data (`Routing`): populations that fit the same `Plan` share one program. Layers are scanned.
All models of a plan have one width. Weights beyond a model's own sizes are replaced by zeros, as in the masked build.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.models.blocks import IN, Active, Leaf, Norm, call, is_leaf, leaves, mix, prefix
from autorank.models.dhen import (
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

EXACT = ("heads", "kernel", "mlp_depth")  # sizes that all instances of a bank share
PADDED = ("rank", "mlp_width")  # sizes that a bank pads to its largest


class Bank(NamedTuple):
    """Instances of one module that run side by side, ``count`` in every layer; static."""

    module: str
    heads: int
    kernel: int
    mlp_depth: int
    rank: int
    mlp_width: int
    count: int


class Plan(NamedTuple):
    """What a population program can hold; static, hashable: one program each."""

    size: int  # p, models
    width: int
    num_layers: int
    slots: int
    positions: int  # m, embeddings of the widest layer
    tokens: tuple[int, ...]  # numbers of tokens that a module may put out
    head_depth: int
    head_width: int
    banks: tuple[Bank, ...]
    has_pre: bool
    has_post: bool
    has_concat: bool
    head: str
    flat: bool = False  # see `interactions.Sizes`
    remat: bool = (
        False  # layers are computed again in the backward pass: memory of one instead of all
    )

    @property
    def instances(self) -> int:
        """``i``, over all banks of a layer."""
        return sum(bank.count for bank in self.banks)


class Routing(NamedTuple):
    """One population within a plan, as arrays; ``l`` layers, ``s`` slots, ``i`` instances."""

    num_layers: Int[Array, " p"]
    positions: Int[Array, "l p"]  # embeddings coming into each layer, then the head
    num_tokens: Int[Array, " p"]
    concat: Bool[Array, " p"]
    weighted: Bool[Array, " p"]
    pre: Bool[Array, " p"]
    post: Bool[Array, " p"]
    head_depth: Int[Array, " p"]
    head_width: Int[Array, " p"]
    model: Int[Array, "l i"]  # whose slot each instance is; p = nobody's
    slot: Int[Array, "l p s"]  # which instance fills each slot; i = none
    rank: Int[Array, "l i"]
    mlp_width: Int[Array, "l i"]


class Population(NamedTuple):
    """Functions of a plan; the caller compiles them."""

    # params, x [p, b, f, d], dense [b, n], routing -> logits [p, b, t]
    apply: Any
    tree: PyTree  # of `Leaf`: every parameter's shape and axes


def bank_key(module: str, config: DhenConfig) -> tuple:
    """What the instances of one bank have in common."""
    return (module, *(getattr(config, n) if module in USES[n] else 1 for n in EXACT))


def plan_of(
    configs: Sequence[DhenConfig], num_fields: int, num_dense: int, *, headroom: float = 1.0
) -> Plan:
    """The smallest plan that holds ``configs``; every bank's count times ``headroom``, rounded up.

    Raises:
        ValueError: no configuration, several widths or several heads.
    """
    found = [canonical(config) for config in configs]
    for name in ("width", "head"):
        values = sorted({getattr(config, name) for config in found})
        if len(values) != 1:
            raise ValueError(
                f"one population has one model.{name}, got {values}; plan one population for each"
            )
    depth = max(config.num_layers for config in found)
    needed: Counter[tuple] = Counter()
    largest: dict[tuple, dict[str, int]] = {}
    for index in range(depth):
        here: Counter[tuple] = Counter()
        for config in found:
            for module in _modules(config, index):
                key = bank_key(module, config)
                here[key] += 1
                sizes = largest.setdefault(key, dict.fromkeys(PADDED, 1))
                for name in PADDED:
                    if module in USES[name]:
                        sizes[name] = max(sizes[name], getattr(config, name))
        for key, count in here.items():
            needed[key] = max(needed[key], count)
    stack = [(config, layer) for config in found for layer in layers(config)]
    outputs = max(layer_outputs(config, layer, 0) for config, layer in stack)
    return Plan(
        size=len(found),
        width=found[0].width,
        num_layers=depth,
        slots=max(1, *(len(layer.modules) for _, layer in stack)),
        positions=max(num_embeddings(num_fields, num_dense), outputs),
        tokens=tuple(sorted({config.num_tokens for config in found})),
        head_depth=max(config.head_depth for config in found),
        head_width=max(config.head_width for config in found),
        banks=tuple(
            Bank(*key, **largest[key], count=int(np.ceil(headroom * count - 1e-9)))
            for key, count in sorted(needed.items())
        ),
        has_pre=any(config.norm == "pre" for config in found),
        has_post=any(config.norm == "post" for config in found),
        has_concat=any(config.ensemble == "concat" for config in found),
        head=found[0].head,
    )


def routing(plan: Plan, configs: Sequence[DhenConfig], num_fields: int, num_dense: int) -> Routing:
    """The arrays that make a program of ``plan`` compute ``configs``; free places repeat the first one.

    Raises:
        ValueError: they do not fit, by name.
    """
    found = [canonical(config) for config in configs]
    reason = misfit(plan, found, num_fields, num_dense)
    if reason:
        raise ValueError(reason)
    size, depth, instances = plan.size, plan.num_layers, plan.instances
    positions = np.full((depth + 1, size), num_embeddings(num_fields, num_dense), np.int32)
    model = np.full((depth, instances), size, np.int32)
    slot = np.full((depth, size, plan.slots), instances, np.int32)
    sizes = {name: np.ones((depth, instances), np.int32) for name in PADDED}
    first = dict(zip([bank[:4] for bank in plan.banks], _starts(plan), strict=True))
    for index in range(depth):
        free = dict(first)
        for p, config in enumerate(found):
            layer = layers(config)[index] if index < config.num_layers else None
            at = int(positions[index, p])
            positions[index + 1, p] = layer_outputs(config, layer, at) if layer else at
            for s, module in enumerate(_modules(config, index)):
                key = bank_key(module, config)
                place = free[key]
                free[key] = place + 1
                model[index, place], slot[index, p, s] = p, place
                for name in PADDED:
                    sizes[name][index, place] = getattr(config, name)
    filled = found + [found[0]] * (size - len(found))

    def each(name: str) -> Array:
        return jnp.asarray(np.array([getattr(config, name) for config in filled], np.int32))

    def marks(name: str, value: str) -> Array:
        return jnp.asarray(np.array([getattr(config, name) == value for config in filled]))

    return Routing(
        num_layers=jnp.asarray(
            np.array([c.num_layers for c in found] + [0] * (size - len(found)), np.int32)
        ),
        positions=jnp.asarray(positions),
        num_tokens=each("num_tokens"),
        concat=marks("ensemble", "concat"),
        weighted=marks("ensemble", "weighted"),
        pre=marks("norm", "pre"),
        post=marks("norm", "post"),
        head_depth=each("head_depth"),
        head_width=each("head_width"),
        model=jnp.asarray(model),
        slot=jnp.asarray(slot),
        **{name: jnp.asarray(value) for name, value in sizes.items()},
    )


def misfit(plan: Plan, configs: Sequence[DhenConfig], num_fields: int, num_dense: int) -> str:
    """Why ``configs`` do not fit the plan together, or ""."""
    found = [canonical(config) for config in configs]
    if len(found) > plan.size:
        return f"{len(found)} models are beyond plan.size={plan.size}"
    for config in found:
        if config.width != plan.width or config.head != plan.head:
            return f"model.width={config.width}, model.head={config.head} are not the plan's"
    if not found:
        return ""
    own = plan_of(found, num_fields, num_dense)
    for name in ("num_layers", "slots", "positions", "head_depth", "head_width"):
        if getattr(own, name) > getattr(plan, name):
            return f"{name}={getattr(own, name)} is beyond plan.{name}={getattr(plan, name)}"
    for name in ("has_pre", "has_post", "has_concat"):
        if getattr(own, name) > getattr(plan, name):
            return f"plan.{name} is False"
    if not set(own.tokens) <= set(plan.tokens):
        return f"num_tokens={own.tokens} are not in plan.tokens={plan.tokens}"
    room = {bank[:4]: bank for bank in plan.banks}
    for bank in own.banks:
        held = room.get(bank[:4])
        if held is None:
            return f"no bank for {bank}"
        for name in (*PADDED, "count"):
            if getattr(bank, name) > getattr(held, name):
                return (
                    f"{bank.module}: {name}={getattr(bank, name)} is beyond {getattr(held, name)}"
                )
    return ""


def population(plan: Plan, num_fields: int, num_dense: int) -> Population:
    """The program of a plan, on parameters with axes ``[p, ...]``, ``[l, p, ...]`` or ``[l, i, ...]``."""
    tree = _parameters(plan, num_fields, num_dense)
    axes = {"positions": plan.positions, "width": plan.width}
    embedding, norm = Embedding(plan.width), Norm({"width": plan.width})
    head = Head(axes, plan.head_depth, plan.head_width, NUM_LOGITS[plan.head])
    modules = [MODULES[bank.module](_sizes(plan, bank)) for bank in plan.banks]
    starts = _starts(plan)

    def apply(params: PyTree, x: Array, dense: Array, routing: Routing) -> Array:
        x = jax.vmap(lambda p, x: call(embedding, p, x, dense))(params["embedding"], x)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, plan.positions - x.shape[2]), (0, 0)))
        per_layer = (
            params["layers"],
            routing.positions[:-1],
            routing.positions[1:],
            routing.model,
            routing.slot,
            routing.rank,
            routing.mlp_width,
            jnp.arange(plan.num_layers)[:, None] < routing.num_layers[None],
        )
        layer = jax.checkpoint(step) if plan.remat else step
        x, _ = jax.lax.scan(lambda x, each: (layer(x, routing, *each), None), x, per_layer)

        def logits(params: PyTree, x: Array, positions: Array, depth: Array, width: Array) -> Array:
            counts = _counts(positions, positions, head=(depth, width))
            return call(head, _cut(params, tree["head"], counts), x, depth)

        return jax.vmap(logits)(
            params["head"], x, routing.positions[-1], routing.head_depth, routing.head_width
        )

    def step(
        x: Array,
        routing: Routing,
        params: PyTree,
        positions: Array,
        outputs: Array,
        model: Array,
        slot: Array,
        rank: Array,
        mlp_width: Array,
        on: Array,
    ) -> Array:
        """One layer; ``params`` of this layer."""

        def normed(x: Array, chosen: Array, counts: Array) -> Array:
            def one(params: PyTree, x: Array, chosen: Array, count: Array) -> Array:
                y = call(norm, params, x)
                inside = prefix(plan.positions, count)[None, :, None]
                return jnp.where(chosen, jnp.where(inside, y, 0), x)

            return jax.vmap(one)(params["norm"], x, chosen, counts)

        before = normed(x, routing.pre, positions) if plan.has_pre else x
        y = jax.vmap(partial(_shortcut, tree["layers"]["shortcut"], plan.flat))(
            x, params["shortcut"], positions, outputs
        )
        if plan.banks:
            inputs = dispatch(before, model, slot, plan)
            parts = []
            for k, bank in enumerate(plan.banks):
                here = slice(starts[k], starts[k] + bank.count)
                owner = jnp.minimum(model[here], plan.size - 1)
                leaf_tree = tree["layers"]["banks"][k]

                def part(params, x, positions, tokens, rank, width, k=k, leaf_tree=leaf_tree):
                    counts = _counts(positions, positions, tokens=tokens, rank=rank, mlp=width)
                    active = Active(positions, None, rank, None, None)
                    return call(modules[k], _cut(params, leaf_tree, counts), x, active)

                parts.append(
                    jax.vmap(part)(
                        params["banks"][k],
                        inputs[k],
                        positions[owner],
                        routing.num_tokens[owner],
                        rank[here],
                        mlp_width[here],
                    )
                )
            y = y + _assemble(combine(parts, model, slot, plan), params["scale"], routing, plan)
        if plan.has_post:
            y = normed(y, routing.post, outputs)
        return jnp.where(on[:, None, None, None], y, x)

    return Population(apply, tree)


def _modules(config: DhenConfig, index: int) -> tuple[str, ...]:
    return layers(config)[index].modules if index < config.num_layers else ()


def _starts(plan: Plan) -> list[int]:
    ends = np.cumsum([bank.count for bank in plan.banks])
    return [int(end) - bank.count for end, bank in zip(ends, plan.banks, strict=True)]


def _sizes(plan: Plan, bank: Bank) -> Sizes:
    return Sizes(
        plan.positions,
        max(plan.tokens),
        plan.width,
        bank.rank,
        bank.heads,
        bank.kernel,
        bank.mlp_depth,
        bank.mlp_width,
        plan.flat,
    )


# --- routing: two linear maps, each the other's transpose, written so that neither needs a scatter ------------------


def dispatch(
    x: Float[Array, "p b m d"], model: Int[Array, " i"], slot: Int[Array, "p s"], plan: Plan
) -> list[Array]:
    """Each instance's input, one array ``[n, b, m, d]`` for each bank."""
    return _dispatch(x, model, slot, tuple(bank.count for bank in plan.banks))


def combine(
    parts: Sequence[Array],
    model: Int[Array, " i"],
    slot: Int[Array, "p s"],
    plan: Plan,
) -> list[Array]:
    """What fills each slot, an array ``[p, b, l, d]`` for each, zeros where nothing does; parts: ``[n, b, l, d]``."""
    return _combine(tuple(parts), model, slot)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dispatch(x: Array, model: Array, slot: Array, counts: tuple[int, ...]) -> list[Array]:
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
    filled: Sequence[Float[Array, "p b l d"]],
    scale: Float[Array, "p s"],
    routing: Routing,
    plan: Plan,
) -> Float[Array, "p b m d"]:
    """Sum or concatenation of the slots, in the layer's positions."""
    total: Any = 0
    for s, part in enumerate(filled):
        factor = jnp.where(routing.weighted, scale[:, s], 1.0).astype(part.dtype)
        if len(plan.tokens) > 1:  # what a padded norm puts beyond the tokens is not the model's
            inside = jax.vmap(partial(prefix, part.shape[2]))(routing.num_tokens)
            part = jnp.where(inside[:, None, :, None], part, 0)
        part = part * factor[:, None, None, None]
        total = total + _at(part, 0, plan) if s == 0 else total + _shifted(part, s, routing, plan)
    return total


def _at(part: Array, offset: int, plan: Plan) -> Array:
    after = plan.positions - offset - part.shape[2]
    if after < 0:
        part, after = part[:, :, : plan.positions - offset], 0
    return jnp.pad(part, ((0, 0), (0, 0), (offset, after), (0, 0)))


def _shifted(part: Array, s: int, routing: Routing, plan: Plan) -> Array:
    if not plan.has_concat:
        return _at(part, 0, plan)
    # A few static shifts and a choice between them: elementwise, where a dynamic shift would be a gather.
    result = _at(part, 0, plan)
    for tokens in plan.tokens:
        if s * tokens < plan.positions:
            moved = routing.concat & (routing.num_tokens == tokens)
            result = jnp.where(moved[:, None, None, None], _at(part, s * tokens, plan), result)
    return result


def _shortcut(
    leaf: Leaf, flat: bool, x: Array, weight: Array, positions: Array, outputs: Array
) -> Float[Array, "b m d"]:
    weight = _cut(weight, leaf._replace(axes=leaf.axes[-2:]), _counts(positions, outputs))
    return jnp.where(positions == outputs, x, mix(x, weight, flat=flat))


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
        lambda leaf, owner: np.full(
            owner.shape + leaf.shape, 1.0 if leaf.path[-1] == "scale" else 0.0, np.float32
        ),
        _parameters(plan, num_fields, num_dense),
        jax.eval_shape(lambda: owners(plan, routing, num_fields, num_dense)),
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
    lead: tuple[int, ...] = (p,)
    if part.startswith("layer"):
        index = int(part.removeprefix("layer")) - 1
        part, lead = "layers", (index, p)
        if rest[0].startswith("slot"):
            slot = int(rest[0].removeprefix("slot"))
            key = bank_key(_modules(config, index)[slot], config)
            bank = [b[:4] for b in plan.banks].index(key)
            lead = (index, int(at.slot[index, p, slot]) - _starts(plan)[bank])
            rest = ["banks", bank, *rest[1:]]
    value = tree[part]
    for name in rest:
        value = value[name]
    return value, (*lead, *(slice(n) for n in leaf.shape))


def owners(plan: Plan, routing: Routing, num_fields: int, num_dense: int) -> PyTree:
    """Whose each entry of every leaf's leading axes is: model numbers ``[p]``, ``[l, p]`` or ``[l, i]``."""
    tree = _parameters(plan, num_fields, num_dense)
    each, starts = jnp.arange(plan.size), _starts(plan)
    in_layers = jnp.broadcast_to(each[None], (plan.num_layers, plan.size))
    model = jnp.minimum(routing.model, plan.size - 1)

    def constant(tree: PyTree, value: Array) -> PyTree:
        return jax.tree.map(lambda _: value, tree, is_leaf=is_leaf)

    layer = {n: constant(tree["layers"][n], in_layers) for n in ("norm", "scale", "shortcut")}
    layer["banks"] = [
        constant(t, model[:, first : first + bank.count])
        for t, first, bank in zip(tree["layers"]["banks"], starts, plan.banks, strict=True)
    ]
    return {n: constant(tree[n], each) for n in ("embedding", "head")} | {"layers": layer}


# --- parameters --------------------------------------------------------------------------------------------------


def _parameters(plan: Plan, num_fields: int, num_dense: int) -> PyTree:
    """Tree of `Leaf` with the shapes of one model, layer or instance; leading axes are named in the path."""
    positions = plan.positions
    x = jax.ShapeDtypeStruct((1, positions, plan.width), jnp.float32)
    dense = jax.ShapeDtypeStruct((1, num_dense), jnp.float32)
    axes = {"positions": positions, "width": plan.width}
    head = Head(axes, plan.head_depth, plan.head_width, NUM_LOGITS[plan.head])
    return {
        "embedding": leaves(Embedding(plan.width), x, dense),
        "layers": {
            "norm": leaves(Norm({"width": plan.width}), x),
            "scale": Leaf(("scale",), (plan.slots,), ("slots",)),
            "shortcut": Leaf(("shortcut",), (positions, positions), (IN + "positions", "outputs")),
            "banks": [leaves(MODULES[b.module](_sizes(plan, b)), x) for b in plan.banks],
        },
        "head": leaves(head, x),
    }


def _counts(
    positions: Array,
    outputs: Array,
    *,
    tokens: Array | None = None,
    rank: Array | None = None,
    mlp: Array | None = None,
    head: tuple[Array, Array] | None = None,
) -> dict[str, Any]:
    """Active length of every axis that is padded here (see `architecture.axis_counts`)."""
    counts: dict[str, Any] = {
        "positions": positions,
        "outputs": outputs,
        "pairs": positions * (positions - 1) // 2,
        "tokens": tokens,
        "rank": rank,
        "mlp": mlp,
        **{f"mlp{i}": mlp for i in range(1, 9)},
    }
    if head is not None:
        depth, width = head
        counts |= {"head": width, "tower": width}
        counts |= {f"head{i}": jnp.where(i <= depth, width, 0) for i in range(1, 9)}
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
