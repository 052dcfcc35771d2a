"""Optimisers of an embedding table with sparse gradients, for the PyTorch peer in `torch_dhen`."""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

TABLE_OPTIMIZERS = ("rowwise", "adagrad", "sparse_adam")


def row_steps(
    ids: Tensor, values: Tensor, owner: Tensor, accumulator: Tensor, rate: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Row-wise Adagrad without a sort or a host synchronisation.

    ``owner[id]`` is the position of one of the lookups of ``id``; the duplicates' gradients are summed there. Returns a
    target row, an addition to its accumulator and one to the row for each lookup, zero for all but those.
    """
    position = torch.arange(ids.shape[0], device=ids.device)
    representative = owner[ids]
    # Zeros are spread over the table: added to one row, they would wait for each other.
    targets = torch.where(representative == position, ids, position % owner.shape[0])
    summed = torch.zeros_like(values).index_add(0, representative, values)
    squares = summed.square().mean(1)
    spread = (accumulator[targets] + squares).sqrt() + eps
    return targets, squares, -rate * summed / spread[:, None]


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row, on the touched rows of tables with sparse gradients."""

    def __init__(
        self, params: Any, lr: float = 0.05, eps: float = 1e-8, compile: bool = False
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})
        self.row_steps = torch.compile(row_steps, dynamic=False) if compile else row_steps

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update from the tables' ``grad``."""
        for group in self.param_groups:
            for table in group["params"]:
                ids, values = table.grad._indices()[0], table.grad._values()
                if not (state := self.state[table]):
                    state["accumulator"] = table.new_zeros(table.shape[0])
                    state["owner"] = ids.new_zeros(table.shape[0])
                state["owner"].scatter_(0, ids, torch.arange(ids.shape[0], device=ids.device))
                targets, squares, steps = self.row_steps(
                    ids, values, state["owner"], state["accumulator"], group["lr"], group["eps"]
                )
                state["accumulator"].index_add_(0, targets, squares)
                table.index_add_(0, targets, steps)


def table_optimizer(name: str, table: nn.Embedding, compile: bool) -> torch.optim.Optimizer:
    """One of `TABLE_OPTIMIZERS`: ours, or PyTorch's own, which sort and wait for the number of distinct ids."""
    if name == "rowwise":
        return RowwiseAdagrad(table.parameters(), lr=0.05, compile=compile)
    if name == "adagrad":
        return torch.optim.Adagrad(table.parameters(), lr=0.05)
    if name == "sparse_adam":
        return torch.optim.SparseAdam(table.parameters(), lr=1e-3)
    raise ValueError(f"table={name!r} is not known; write one of {', '.join(TABLE_OPTIMIZERS)}")
