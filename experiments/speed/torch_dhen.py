"""The DHEN family in PyTorch: the peer that the speed of `autorank.models.dhen` is measured against.

The same function of the same parameters as `autorank.models.dhen.compact`
(``tests/experiments/test_torch_peer.py``), in library kernels: scaled dot-product attention, layer norm, convolution.
`experiments.speed.torch_training` trains it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from autorank.models.dhen import (
    DhenConfig,
    LayerConfig,
    canonical,
    layer_outputs,
    layers,
    residual_gain,
)
from experiments.speed.torch_modules import EPS, MODULES, Hidden, Mlp, plain

DENSE_FACTOR = 4  # hidden units of the dense features' MLP, in widths


class Layer(nn.Module):
    """``Norm(Ensemble_i Interaction_i(X) + ShortCut(X))``, ``[b, m, d]`` -> ``[b, outputs, d]``."""

    def __init__(self, c: DhenConfig, layer: LayerConfig, m: int) -> None:
        super().__init__()
        self.config, self.names = c, [f"slot{i}" for i in range(len(layer.modules))]
        self.outputs = layer_outputs(c, layer, m)
        for name, module in zip(self.names, layer.modules, strict=True):
            setattr(self, name, MODULES[module](c, m))
        if c.norm == "post" or (c.norm == "pre" and self.names):
            self.norm = nn.LayerNorm(c.width, EPS)
        if self.names and c.ensemble == "weighted":
            self.scale = nn.Parameter(torch.ones(len(self.names)))
        self.shortcut = plain(m, self.outputs) if self.outputs != m else None

    def forward(self, x: Tensor) -> Tensor:
        c = self.config
        normed = self.norm(x) if c.norm == "pre" and self.names else x
        parts = [getattr(self, name)(normed) for name in self.names]
        if self.shortcut is not None:
            x = self.shortcut(x.mT).mT
        if parts and c.ensemble == "concat":
            x = x + torch.cat(parts, 1)
        elif parts:
            for i, part in enumerate(parts):
                x = x + (part * self.scale[i] if c.ensemble == "weighted" else part)
        return self.norm(x) if c.norm == "post" else x


class Head(nn.Module):
    """Hidden layers over the flattened embeddings and one logit."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.trunk = Hidden(m * c.width, c.head_depth, c.head_width)
        self.logit = nn.Linear(c.head_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.logit(self.trunk(x))


class Embedding(nn.Module):
    """Looked-up rows and, if there are dense features, their MLP as one more embedding."""

    def __init__(self, c: DhenConfig, num_dense: int) -> None:
        super().__init__()
        self.dense = Mlp(num_dense, (1, c.width), 1, DENSE_FACTOR * c.width) if num_dense else None

    def forward(self, x: Tensor, dense: Tensor) -> Tensor:
        return x if self.dense is None else torch.cat([x, self.dense(dense).to(x.dtype)], 1)


class Network(nn.Module):
    """All but the table: rows ``[b, f, d]`` and dense features ``[b, n]`` in, logits ``[b, 1]`` out."""

    def __init__(self, c: DhenConfig, num_fields: int, num_dense: int) -> None:
        super().__init__()
        self.embedding, m = Embedding(c, num_dense), num_fields + (num_dense > 0)
        self.num_layers = c.num_layers
        for i, layer in enumerate(layers(c), start=1):
            built = Layer(c, layer, m)
            setattr(self, f"layer{i}", built)
            gain = residual_gain(c.num_layers, max(1, len(layer.modules)))
            for name, module in built.named_modules():
                initialise(module, gain if name.endswith("out") else 1.0)
            m = built.outputs
        self.head = Head(c, m)
        for module in [*self.embedding.modules(), *self.head.modules()]:
            initialise(module, 1.0)

    def forward(self, rows: Tensor, dense: Tensor) -> Tensor:
        x = self.embedding(rows, dense)
        for i in range(1, self.num_layers + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.head(x)


def initialise(module: nn.Module, gain: float) -> None:
    """LeCun normal kernels, zero offsets."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.normal_(module.weight, std=gain * max(1, module.weight[0].numel()) ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class TorchDhen(nn.Module):
    """One configuration at its real sizes with its embedding table: ids ``[b, f]`` and dense features to logits.

    Raises:
        ValueError: a head other than ``ctr``.
    """

    def __init__(self, config: DhenConfig, num_fields: int, num_dense: int, num_ids: int) -> None:
        super().__init__()
        if config.head != "ctr":
            raise ValueError(f"model.head={config.head!r} is not in the peer; write model.head=ctr")
        self.table = nn.Embedding(num_ids, config.width, sparse=True)
        nn.init.normal_(self.table.weight, std=0.01)
        self.network = Network(canonical(config), num_fields, num_dense)

    def forward(self, sparse: Tensor, dense: Tensor) -> Tensor:
        return self.network(self.table(sparse), dense)


def load(model: TorchDhen, params: Mapping[str, Any]) -> None:
    """Copies a compact model's parameters (nested dictionaries of arrays) into the peer; the table stays.

    Raises:
        ValueError: a parameter without a counterpart, or one of another size, or one that is missing.
    """
    loaded: set[int] = set()
    with torch.no_grad():
        _load(model.network, params, (), loaded)
    missing = [n for n, p in model.network.named_parameters() if id(p) not in loaded]
    if missing:
        raise ValueError(
            f"the parameters lack {', '.join(missing)}; pass those of compact(config).init"
        )


def _load(
    module: nn.Module, params: Mapping[str, Any], path: tuple[str, ...], loaded: set[int]
) -> None:
    for name, value in params.items():
        own: Any = getattr(module, name, None)
        here = (*path, name)
        if isinstance(value, Mapping) and isinstance(own, nn.Module):
            _load(own, value, here, loaded)
            continue
        value = torch.from_numpy(np.array(value, np.float32))
        if isinstance(module, nn.LayerNorm):
            target = module.weight if name == "scale" else module.bias
        elif isinstance(own, nn.Conv1d):  # taps come from the centre out: 0, -1, 1, -2, 2
            target, reach = own.weight, own.kernel_size[0] // 2
            order = np.argsort(sorted(range(-reach, reach + 1), key=abs))
            value = value[order].permute(2, 1, 0)
        elif isinstance(own, nn.Linear):
            target = own.weight
            if value.numel() == target.numel():
                value = value.reshape(own.in_features, own.out_features).T
        elif isinstance(own, nn.Parameter):
            target = own
        else:  # the offset of up, logit, kernel1 ... is named up_bias, logit_bias, bias1 ...
            names = (name.removesuffix("_bias"), name.replace("bias", "kernel"), "out", "up")
            owners = [getattr(module, n, None) for n in names]
            target = next((b for o in owners if (b := getattr(o, "bias", None)) is not None), None)
        if target is None or target.numel() != value.numel():
            shape = None if target is None else tuple(target.shape)
            what = f"{'/'.join(here)} {tuple(value.shape)} does not fit {shape}"
            raise ValueError(f"{what}; build both from one configuration")
        target.copy_(value.reshape(target.shape))
        loaded.add(id(target))
