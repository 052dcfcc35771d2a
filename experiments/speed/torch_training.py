"""Trains the PyTorch peer the way PyTorch is fast, and times it.

One table with sparse gradients, fused Adam, ``torch.compile`` on the dense network, and no host synchronisation inside
a step.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
import torch._inductor.config as inductor  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # noqa: N812  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]

from autorank.models.dhen import DhenConfig
from experiments.speed.torch_dhen import TorchDhen
from experiments.speed.torch_tables import table_optimizer


class Rows(NamedTuple):
    """A log on the device: ids ``[n, f]``, dense features ``[n, m]``, clicks ``[n]``."""

    sparse: Tensor
    dense: Tensor
    clicks: Tensor

    def batch(self, index: int, size: int) -> "Rows":
        """Batch ``index`` of ``size`` rows."""
        rows = slice(index * size, (index + 1) * size)
        return Rows(*(part[rows] for part in self))


class Trainer(NamedTuple):
    """A model with its optimisers; ``step`` learns from one batch."""

    model: TorchDhen
    objective: Callable[[Tensor, Tensor, Tensor], Tensor]  # compiled or not
    adam: torch.optim.Adam
    table: Any  # the optimiser of the table's rows
    precision: AbstractContextManager[Any]
    graphs: bool  # CUDA graphs need each step's begin
    total: Tensor  # progressive loss, summed

    def step(self, batch: Rows) -> None:
        """Scores the batch, then learns from it."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with self.precision:
            loss = self.objective(self.model.table(batch.sparse), batch.dense, batch.clicks)
        loss.backward()
        self.total.add_(loss.detach())
        self.adam.step()
        self.table.step()
        self.adam.zero_grad()
        self.table.zero_grad()


def make_trainer(
    model: TorchDhen, device: str, *, dtype: str, compile: bool, mode: str, table: str
) -> Trainer:
    """The trainer of a model on a device; arguments as those of `measure`."""
    network, kind = model.network, torch.device(device).type

    def objective(rows: Tensor, dense: Tensor, clicks: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(network(rows, dense)[:, 0].float(), clicks)

    half = torch.autocast(kind, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    return Trainer(
        model,
        torch.compile(objective, mode=mode, dynamic=False) if compile else objective,
        torch.optim.Adam(network.parameters(), lr=1e-3, fused=True),
        table_optimizer(table, model.table, compile),
        half,
        mode != "default",
        torch.zeros((), device=device),
    )


def measure(
    config: DhenConfig,
    sparse: Tensor,
    dense: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    steps: int,
    warmup: int,
    device: str,
    dtype: str = "float32",
    compile: bool = True,
    mode: str = "default",
    table: str = "rowwise",
) -> dict[str, float]:
    """Trains on ``warmup`` untimed and ``steps`` timed batches, each row once, all rows on the device beforehand.

    Args:
        config: with ``head="ctr"``.
        sparse: ``[n, f]`` ids below ``sparse.max() + 1``, the rows of the table.
        dense: ``[n, m]``, ``m`` may be 0.
        labels: ``[n, ...]``, column 0 the click.
        batch_size: rows a step.
        steps: timed steps.
        warmup: untimed steps before them, at least 1: the first one compiles.
        device: ``cpu``, ``cuda``.
        dtype: ``bfloat16`` is autocast; ``float32`` uses TF32 products on a GPU, as JAX does.
        compile: whether the dense network with its loss, and the table's update, pass ``torch.compile``.
        mode: of ``torch.compile`` of the network; ``reduce-overhead`` uses CUDA graphs.
        table: one of `torch_tables.TABLE_OPTIMIZERS`.

    Returns:
        ``compile_seconds`` (wall, the first step, compilation caches off), ``rows_per_second`` of the timed steps, and
        ``loss``, the mean progressive loss of those in nats, read back after the clock stopped.

    Raises:
        ValueError: too few rows, or an unknown dtype, table or head.
    """
    _check(len(sparse), batch_size, steps, warmup, dtype)
    torch.manual_seed(0)
    torch.compiler.reset()
    torch.set_float32_matmul_precision("high")
    clicks = labels.reshape(len(labels), -1)[:, 0]
    rows = Rows(
        sparse.to(device), dense.to(device, torch.float32), clicks.to(device, torch.float32)
    )
    model = TorchDhen(config, sparse.shape[1], dense.shape[1], int(sparse.max()) + 1).to(device)
    trainer = make_trainer(model, device, dtype=dtype, compile=compile, mode=mode, table=table)
    with inductor.patch(force_disable_caches=True):
        compile_seconds = _seconds(trainer, rows, batch_size, range(1), device)
    _seconds(trainer, rows, batch_size, range(1, warmup), device)
    trainer.total.zero_()
    elapsed = _seconds(trainer, rows, batch_size, range(warmup, warmup + steps), device)
    return {
        "compile_seconds": compile_seconds,
        "rows_per_second": steps * batch_size / elapsed,
        "loss": trainer.total.item() / steps,
    }


def _check(num_rows: int, batch_size: int, steps: int, warmup: int, dtype: str) -> None:
    """Refuses what cannot be measured."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} is not known; write float32 or bfloat16")
    if warmup < 1 or (warmup + steps) * batch_size > num_rows:
        needed = f"{warmup} + {steps} steps of {batch_size}"
        raise ValueError(f"{needed} do not fit {num_rows} rows; write fewer, and warmup=1 or more")


def _seconds(trainer: Trainer, rows: Rows, size: int, steps: range, device: str) -> float:
    """Wall seconds of some steps, all work of the device included."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    for index in steps:
        trainer.step(rows.batch(index, size))
    wait()
    return time.perf_counter() - started
