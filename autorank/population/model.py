"""Many different models as one program: every module runs once over just the instances that hold it.

A masked model (`masked`) computes every module in every slot and throws most of it away. Here the slots of all models
of a population are *routed*: each `Bank` runs one module over the ``n`` (model, slot) pairs of a layer that hold it,
and the results go back to their models. The work is that of the modules in use, padded to the largest sizes of the
bank, so a hundred architectures train side by side at about the cost of their own modules.

Which slots go where is data (`Routing`): populations that fit the same `Layout` share one program. Models that end
early leave the program early. All models of a layout have one width. Weights beyond a model's own sizes are replaced by
zeros, as in a masked model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float, PyTree
from autorank.models.blocks import Norm
from autorank.models.dhen import MAX_DEPTH
from autorank.models.embedding import Embedding
from autorank.models.heads import NUM_LOGITS, Head
from autorank.models.interactions import MODULES
from autorank.models.maps import mix
from autorank.models.parameters import Active, Leaf, call, cut, prefix
from autorank.population.layouts import LayerLayout, Layout, sizes_of
from autorank.population.routing import LayerRouting, Routing
from autorank.population.slot_permutations import combine, dispatch, permute
from autorank.population.weights import parameter_leaves


@dataclass(frozen=True)
class Population:
    """The models of a layout as one function; the caller compiles it."""

    layout: Layout
    num_fields: int
    num_dense: int

    @cached_property
    def tree(self) -> PyTree:
        """Tree of `Leaf`: every parameter's shape and axes, of one model or instance."""
        return parameter_leaves(self.layout, self.num_fields, self.num_dense)

    def apply(
        self, params: PyTree, x: Array, dense: Array, routing: Routing
    ) -> Float[Array, "p b t"]:
        """Logits of all models from their looked-up rows ``x [p, b, f, d]`` and ``dense [b, n]``.

        Parameters have a leading axis of models or instances.
        """
        layout = self.layout
        embedding = Embedding(layout.width)
        x = jax.vmap(lambda p, x: call(embedding, p, x, dense))(params["embedding"], x)
        x = permute(x, routing.order, routing.place)
        ended: list[Array] = []
        for index, layer in enumerate(layout.layers):
            run = PopulationLayer(layout, layer, self.tree["layers"][index])
            run = jax.checkpoint(run) if layout.remat else run
            ended.insert(0, x[layer.size :])
            x = _fit(x[: layer.size], layer.inputs)
            x = run(params["layers"][index], x, routing, routing.layers[index])
        parts = [_fit(part, layout.positions) for part in (x, *ended) if part.shape[0]]
        x = permute(jnp.concatenate(parts), routing.place, routing.order)
        return jax.vmap(self._logits)(
            params["head"], x, routing.positions, routing.head_depth, routing.head_width
        )

    def _logits(
        self, params: PyTree, x: Array, positions: Array, depth: Array, width: Array
    ) -> Array:
        """Logits ``[b, t]`` of one model."""
        layout = self.layout
        axes = {"positions": layout.positions, "width": layout.width}
        head = Head(axes, layout.head_depth, layout.head_width, NUM_LOGITS[layout.head])
        counts = _counts(positions, positions, head=(depth, width))
        return call(head, cut(params, self.tree["head"], counts), x, depth)


@dataclass(frozen=True, eq=False)
class PopulationLayer:
    """One layer of the models that have it, in the order of depth."""

    layout: Layout
    layer: LayerLayout
    tree: PyTree  # of `Leaf`, of this layer

    def __call__(
        self, params: PyTree, x: Array, routing: Routing, at: LayerRouting
    ) -> Float[Array, "q b l d"]:
        """``x [q, b, m, d]`` are the embeddings coming in."""
        layer, q = self.layer, slice(self.layer.size)
        norm = params["norm"]
        before = self._normed(norm, x, routing.pre[q], at.positions) if layer.has_pre else x
        y = _fit(x, layer.outputs)
        if layer.reshapes:
            mixed = jax.vmap(partial(_mix, self.tree["shortcut"], self.layout.flat))(
                x, params["shortcut"], at.positions, at.outputs
            )
            y = jnp.where((at.positions == at.outputs)[:, None, None, None], y, mixed)
        if layer.banks:
            filled = self._modules(params["banks"], before, routing, at)
            y = y + _assemble(filled, params["scale"], routing, self.layout, layer)
        if layer.has_post:
            y = self._normed(norm, y, routing.post[q], at.outputs)
        if not self.layout.loose:
            return y
        return jnp.where(at.on[:, None, None, None], y, _fit(x, layer.outputs))

    def _normed(self, params: PyTree, x: Array, chosen: Array, counts: Array) -> Array:
        """Layer norm of the chosen models, over their own positions."""
        norm = Norm({"width": self.layout.width})

        def one(params: PyTree, x: Array, chosen: Array, count: Array) -> Array:
            inside = prefix(x.shape[1], count)[None, :, None]
            return jnp.where(chosen, jnp.where(inside, call(norm, params, x), 0), x)

        return jax.vmap(one)(params, x, chosen, counts)

    def _modules(self, params: PyTree, x: Array, routing: Routing, at: LayerRouting) -> list[Array]:
        """What the modules put into each slot: every bank runs on the slots that hold its module."""
        banks = self.layer.banks
        inputs: Any = dispatch(x, at.model, at.slot, tuple(bank.count for bank in banks))
        parts = []
        for k, (bank, start) in enumerate(zip(banks, self.layer.starts, strict=True)):
            here = slice(start, start + bank.count)
            owner = jnp.minimum(at.model[here], self.layer.size - 1)
            module = MODULES[bank.module].make(sizes_of(self.layout, self.layer, bank))
            parts.append(
                jax.vmap(partial(_instance, module, self.tree["banks"][k]))(
                    params[k],
                    inputs[k],
                    at.positions[owner],
                    routing.num_tokens[owner],
                    {name: size[here] for name, size in at.sizes.items()},
                )
            )
        return combine(tuple(parts), at.model, at.slot)


def _instance(
    module: Any,
    tree: PyTree,
    params: PyTree,
    x: Array,
    positions: Array,
    tokens: Array,
    sizes: dict[str, Array],
) -> Array:
    """One instance of a module, with its weights cut to its own sizes."""
    counts = _counts(positions, positions, tokens=tokens, sizes=sizes)
    active = Active(positions, None, sizes["rank"], None, sizes["mlp_depth"])
    return call(module, cut(params, tree, counts), x, active)


def _fit(x: Float[Array, "q b m d"], positions: int) -> Array:
    """``x`` cut or padded to ``positions`` embeddings; what is cut is inactive."""
    if x.shape[2] >= positions:
        return x[:, :, :positions]
    return jnp.pad(x, ((0, 0), (0, 0), (0, positions - x.shape[2]), (0, 0)))


def _assemble(
    filled: Sequence[Array],
    scale: Float[Array, "q s"],
    routing: Routing,
    layout: Layout,
    layer: LayerLayout,
) -> Float[Array, "q b l d"]:
    """Sum or concatenation of the slots ``[q, b, tokens, d]``, in the layer's positions."""
    total: Any = 0
    q = slice(layer.size)
    num_tokens, concat = routing.num_tokens[q], routing.concat[q]
    for s, part in enumerate(filled):
        factor = jnp.where(routing.weighted[q], scale[:, s], 1.0).astype(part.dtype)
        if len(layout.tokens) > 1:  # what a padded norm puts beyond the tokens is not the model's
            inside = jax.vmap(partial(prefix, part.shape[2]))(num_tokens)
            part = jnp.where(inside[:, None, :, None], part, 0)
        part = part * factor[:, None, None, None]
        placed = _fit(part, layer.outputs)
        if s and layout.has_concat:
            # A few static shifts and a choice between them: elementwise, where a dynamic shift would be a gather.
            for tokens in layout.tokens:
                if s * tokens < layer.outputs:
                    shifted = jnp.pad(part, ((0, 0), (0, 0), (s * tokens, 0), (0, 0)))
                    moved = (concat & (num_tokens == tokens))[:, None, None, None]
                    placed = jnp.where(moved, _fit(shifted, layer.outputs), placed)
        total = total + placed
    return total


def _mix(
    leaf: Leaf, flat: bool, x: Array, weight: Array, positions: Array, outputs: Array
) -> Float[Array, "b l d"]:
    return mix(x, cut(weight, leaf, _counts(positions, outputs)), flat=flat)


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
