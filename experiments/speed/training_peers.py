"""The same networks in PyTorch and in FuxiCTR, for `experiments.speed.training`; needs `make peers`.

Nothing here is imported by the package: peers are measured, not used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class Network(NamedTuple):
    """A deep and cross network: full-rank crosses over the flattened input, then an MLP (DCN-V2, stacked)."""

    num_crosses: int
    hidden: tuple[int, ...]


class Dcn(nn.Module):
    """``x_{l+1} = x_0 * (W x_l + b) + x_l``, then the MLP; logits ``[b]``."""

    def __init__(self, size: int, network: Network) -> None:
        super().__init__()
        self.crosses = nn.ModuleList(nn.Linear(size, size) for _ in range(network.num_crosses))
        layers: list[nn.Module] = []
        for width in network.hidden:
            layers += [nn.Linear(size, width), nn.ReLU()]
            size = width
        self.mlp = nn.Sequential(*layers, nn.Linear(size, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[b, size]`` -> ``[b]``."""
        first = x
        for cross in self.crosses:
            x = first * cross(x) + x
        return self.mlp(x)[:, 0]


def torch_step(
    network: Network,
    sparse: np.ndarray,
    dense: np.ndarray,
    labels: np.ndarray,
    *,
    num_ids: int,
    width: int,
    table_optimizer: str,
    half: bool = False,
) -> Callable[[int], None]:
    """``step(i)`` trains on batch ``i`` of ``[steps, b, ...]``: one sparse embedding, fused Adam on the rest.

    ``table_optimizer``: "adam" (`SparseAdam`, lazy) or "adagrad" (element-wise, sparse gradients). ``half`` lets matrix
    products run in bfloat16.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if half:
        torch.set_float32_matmul_precision("medium")
    table = nn.Embedding(num_ids, width, sparse=True)
    nn.init.normal_(table.weight, std=0.01)
    model = Dcn(sparse.shape[2] * width + dense.shape[2], network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    kinds: dict[str, Any] = {"adam": torch.optim.SparseAdam, "adagrad": torch.optim.Adagrad}
    of_table = kinds[table_optimizer](list(table.parameters()), lr=1e-2)
    batches = [
        (torch.from_numpy(s).long(), torch.from_numpy(d), torch.from_numpy(y))
        for s, d, y in zip(sparse, dense, labels, strict=True)
    ]
    loss_fn = nn.BCEWithLogitsLoss()

    def step(i: int) -> None:
        ids, values, targets = batches[i]
        optimizer.zero_grad()
        of_table.zero_grad()
        x = torch.cat([table(ids).flatten(1), values], dim=1)
        loss_fn(model(x), targets).backward()
        optimizer.step()
        of_table.step()

    return step


def fuxictr_step(
    network: Network,
    sparse: np.ndarray,
    dense: np.ndarray,
    labels: np.ndarray,
    *,
    sizes: np.ndarray,
    width: int,
) -> Callable[[int], None]:
    """``step(i)`` is FuxiCTR's own ``train_step`` on a model of its own blocks; its loaders are not measured.

    Every field has its table (``sizes`` rows each); ids of ``sparse`` count from 0 in each field.
    """
    from fuxictr.features import FeatureMap  # pyright: ignore[reportMissingImports]
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block  # pyright: ignore[reportMissingImports]
    from fuxictr.pytorch.models import BaseModel  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(1)
    features = FeatureMap("bench", ".")
    names = [f"C{i}" for i in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        features.features[name] = {
            "type": "categorical",
            "source": "",
            "vocab_size": int(size),
            "padding_idx": None,
        }
    features.labels = ["label"]

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__(features, "bench", verbose=0, model_root=".", metrics=["AUC"], gpu=-1)
            self.embedding = FeatureEmbedding(features, width)
            size = len(sizes) * width + dense.shape[2]
            self.cross = CrossNetV2(size, network.num_crosses) if network.num_crosses else None
            self.mlp = MLP_Block(
                size, list(network.hidden), output_dim=1, output_activation=self.output_activation
            )
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self._max_gradient_norm = 10.0

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            found = {k: v for k, v in inputs.items() if k in features.features}
            x = torch.cat([self.embedding(found, flatten_emb=True), inputs["dense"]], dim=1)
            if self.cross is not None:
                x = self.cross(x)
            return {"y_pred": self.mlp(x)}

    model = Model()
    batches = []
    for s, d, y in zip(sparse, dense, labels, strict=True):
        columns = {name: torch.from_numpy(s[:, i].copy()) for i, name in enumerate(names)}
        batches.append(columns | {"dense": torch.from_numpy(d), "label": torch.from_numpy(y)})

    def step(i: int) -> None:
        model.train_step(batches[i])

    return step
