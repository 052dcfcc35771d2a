"""The interaction modules of `autorank.models.interactions` in PyTorch, for the peer in `torch_dhen`.

Each is built from the configuration and ``m``, the embeddings coming in, and maps ``[b, m, d]`` to ``[b, l, d]``, with
``d = width`` and ``l = num_tokens``. Attributes are named like the parameters there, which is what `torch_dhen.load`
goes by.
"""

import math

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # noqa: N812  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from autorank.models.dhen import DhenConfig

EPS = 1e-6  # of every layer norm
FFN_FACTOR = 2  # hidden units of attention's feed-forward part, in widths


def plain(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without offset."""
    return nn.Linear(inputs, outputs, bias=False)


class Hidden(nn.Module):
    """``depth`` fully connected layers with ReLU over flattened inputs, ``[b, ...]`` -> ``[b, width]``."""

    def __init__(self, inputs: int, depth: int, width: int) -> None:
        super().__init__()
        self.depth = depth
        for i in range(1, depth + 1):
            setattr(self, f"kernel{i}", nn.Linear(inputs if i == 1 else width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for i in range(1, self.depth + 1):
            x = F.relu(getattr(self, f"kernel{i}")(x))
        return x


class Mlp(nn.Module):
    """`Hidden` layers and a linear one, ``[b, ...]`` -> ``[b, *outputs]``."""

    def __init__(self, inputs: int, outputs: tuple[int, ...], depth: int, width: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.hidden = Hidden(inputs, depth, width)
        self.out = nn.Linear(width, math.prod(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x)).unflatten(1, self.outputs)


class Linear(nn.Module):
    """``W X`` over the embedding axis."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.out = plain(m, c.num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mT).mT


class Dot(nn.Module):
    """Pairwise dot products below the diagonal, then an MLP."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        rows, columns = np.tril_indices(m, -1)
        self.register_buffer("below", torch.from_numpy(rows * m + columns), persistent=False)
        self.mlp = Mlp(len(rows), (c.num_tokens, c.width), c.mlp_depth, c.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        # index_select: its backward adds, that of advanced indexing sorts.
        return self.mlp(torch.bmm(x, x.mT).flatten(1).index_select(1, self.below))


class Attention(nn.Module):
    """One post-norm encoder layer over the embeddings, then ``W``."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        d = c.width
        self.heads = c.heads
        self.qkv, self.project = plain(d, 3 * d), plain(d, d)
        self.norm1, self.norm2 = nn.LayerNorm(d, EPS), nn.LayerNorm(d, EPS)
        self.up, self.down = nn.Linear(d, FFN_FACTOR * d), nn.Linear(FFN_FACTOR * d, d)
        self.out = plain(m, c.num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        # [b, m, 3 d] -> three of [b, heads, m, d / heads]
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind()).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.project(mixed))
        x = self.norm2(x + self.down(F.relu(self.up(x))))
        return self.out(x.mT).mT


class Cross(nn.Module):
    """``X * (A X B + b)``, then ``W``."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.across, self.along = plain(m, m), plain(c.width, c.width)
        self.bias = nn.Parameter(torch.zeros(m, c.width))
        self.out = plain(m, c.num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        y = x * (self.along(self.across(x.mT).mT) + self.bias)
        return self.out(y.mT).mT


class CrossLow(nn.Module):
    """``x * (U V^T x + b)`` on the flattened embeddings, then ``W``."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.down, self.up = plain(m * c.width, c.rank), nn.Linear(c.rank, m * c.width)
        self.out = plain(m, c.num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.up(self.down(x.flatten(1))).view_as(x)
        return self.out(y.mT).mT


class Convolution(nn.Module):
    """1-D convolution over the embedding axis (width = channels), ReLU, then ``W``."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.kernel = nn.Conv1d(c.width, c.width, c.kernel, padding=c.kernel // 2)
        self.out = plain(m, c.num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.kernel(x.mT))).mT


class Fmb(nn.Module):
    """``reshape(MLP(LN(flatten(X (X^T Y)))))``."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.project, self.norm = plain(m, c.rank), nn.LayerNorm((m, c.rank), EPS)
        self.mlp = Mlp(m * c.rank, (c.num_tokens, c.width), c.mlp_depth, c.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(torch.bmm(x, self.project(x.mT))))


class Wukong(nn.Module):
    """``FMB(X) + W X``."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.fmb, self.lcb = Fmb(c, m), Linear(c, m)

    def forward(self, x: Tensor) -> Tensor:
        return self.fmb(x) + self.lcb(x)


class Mask(nn.Module):
    """``ReLU(LN(W (LN(X) * MLP(flatten X))))``."""

    def __init__(self, c: DhenConfig, m: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c.width, EPS), nn.LayerNorm(c.width, EPS)
        self.mlp = Mlp(m * c.width, (m, c.width), c.mlp_depth, c.mlp_width)
        self.out = plain(m, c.num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.out((self.norm1(x) * self.mlp(x)).mT).mT))


MODULES = {
    "dot": Dot,
    "attention": Attention,
    "linear": Linear,
    "cross": Cross,
    "cross_low": CrossLow,
    "convolution": Convolution,
    "fmb": Fmb,
    "wukong": Wukong,
    "mask": Mask,
}
