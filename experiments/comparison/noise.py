"""Noise in what searchers are told: normal, or drawn from the seeds that a table has recorded."""

from collections.abc import Sequence

import numpy as np

from autorank.benchmarks.base import Benchmark, Values

RECORDED = "recorded"


def noise_text(noise: float | str) -> str:
    """A noise as file names and tables spell it.

    Examples:
        >>> noise_text(0.05), noise_text("recorded")
        ('0.05', 'recorded')
    """
    return noise if isinstance(noise, str) else f"{noise:g}"


def noise_of(text: str) -> float | str:
    """The noise that a text spells.

    Raises:
        ValueError: it spells none.
    """
    return text if text == RECORDED else float(text)


def noisy(
    draw: np.random.Generator,
    noise: float | str,
    benchmark: Benchmark,
    rows: Sequence[Values],
    losses: np.ndarray,
    scale: float,
) -> np.ndarray:
    """What is told of configurations whose losses are ``[n]``.

    Args:
        draw: makes the noise.
        noise: standard deviation in units of ``scale``; or `RECORDED`, which tells one of the recorded seeds.
        benchmark: has the recorded seeds.
        rows: the configurations.
        losses: without noise.
        scale: the median random regret.
    """
    if isinstance(noise, str):
        assert noise == RECORDED and benchmark.seeds is not None
        recorded = benchmark.seeds(rows)
        return recorded[np.arange(len(rows)), draw.integers(recorded.shape[1], size=len(rows))]
    return losses + noise * scale * draw.normal(size=len(rows))
