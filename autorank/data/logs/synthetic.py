"""A stream whose truth is known: power-law ids, planted interactions of order one to three, drift,
click, conversion.

A logit is a sum of terms of zero mean and unit variance under the distribution of the ids, each
times a known weight:

    main    w_j[id_j], of every field; every third one turns into another over ``drift_rows`` rows
    pair    <u_i[id_i], u_j[id_j]> / sqrt(L)
    triple  sum_l u_i[id_i]_l u_j[id_j]_l u_k[id_k]_l / sqrt(L)
    dense   linear, quadratic, and one times a field's latent

so that its variance is the sum of the squared weights. The true probabilities give the
Bayes-optimal NE of the very
rows that a model is trained and tested on: no model can be expected to do better.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from autorank.base.metrics import normalized_entropy
from autorank.data.format.source import Chunk, Columns, Source
from autorank.data.logs.base import SOURCES, DataConfig

VERSION = 1
CHUNK = 1 << 16  # rows drawn together; part of what a seed means
LATENTS = 4  # L
NUM_DENSE = 3
MISSING_SHARE = 0.05  # of each dense column
SIZES = (16, 32, 64, 100, 200, 400, 800, 1500, 3000, 6000, 12000, 26000)
EXPONENT = 1.05  # popularity of the i-th id: i ** -EXPONENT
SEASON_ROWS = 50_000  # period of the base rate
TEACHERS = 1 << 62  # Philox keys from here on draw teachers, below chunks

# Standard deviations of the groups of terms in the logits of click and of conversion given click.
WEIGHTS = {"main": 0.90, "pair": 0.75, "triple": 0.45, "dense": 0.50}
BIASES = (-1.35, -1.1)
SHARED = 0.5  # weight of the click's logit in the conversion's


class Teacher(NamedTuple):
    """What the labels of one task are drawn from, per field j."""

    main: tuple[np.ndarray, ...]  # [v]
    later: tuple[np.ndarray, ...]  # [v], what ``main`` turns into
    latents: tuple[np.ndarray, ...]  # [v, L]


class Rows(NamedTuple):
    """A chunk with its truth."""

    ids: np.ndarray  # int32 [n, f]
    dense: np.ndarray  # float64 [n, 3], NaN = missing
    labels: np.ndarray  # int8 [n, 2]
    truth: np.ndarray  # float64 [n, 2]: P(click), P(conversion | click)


@dataclass(frozen=True)
class SyntheticConfig(DataConfig):
    """Which rows of which stream."""

    source: str = "synthetic"
    num_rows: int = 500_000  # length of the stream
    seed: int = 0  # which stream


@SOURCES.register("synthetic", SyntheticConfig)
def from_settings(settings: SyntheticConfig) -> Source:
    """A stream with planted interactions and drift, whose Bayes-optimal NE is known exactly."""
    return source(settings.num_rows, seed=settings.seed)


def source(
    num_rows: int = 500_000,
    *,
    seed: int = 0,
    sizes: tuple[int, ...] = SIZES,
    drift_rows: int = 2_000_000,
) -> Source:
    """The first ``num_rows`` rows of the stream ``seed``; a longer stream extends a shorter one.

    Args:
        sizes: ids of each field.
        drift_rows: rows in which a drifting effect turns once around; a quarter of it makes it
            another effect.

    Raises:
        ValueError: fewer than 4 fields, a field with fewer than 8 ids, no rows, a bad seed.
    """
    sizes = tuple(int(size) for size in sizes)
    if len(sizes) < 4 or min(sizes) < 2 * LATENTS:
        raise ValueError(
            f"sizes={sizes}: give at least 4 fields of at least {2 * LATENTS} ids each"
        )
    if num_rows < 2 or drift_rows < 1 or not 0 <= seed < 1 << 63:
        raise ValueError(
            f"num_rows={num_rows}, drift_rows={drift_rows}, seed={seed}: need at least 2 rows, "
            "drift_rows >= 1 and "
            f"0 <= seed < 2**63"
        )
    columns = Columns(
        categorical=tuple(f"field{j}" for j in range(len(sizes))),
        dense=tuple(f"dense{j}" for j in range(NUM_DENSE)),
        click="click",
        conversion="conversion",
    )

    def chunks() -> Iterator[Rows]:
        return generate(num_rows, seed=seed, sizes=sizes, drift_rows=drift_rows)

    def notes(num_train: int, rows: int) -> dict[str, Any]:
        parts = list(chunks())
        labels = np.concatenate([part.labels for part in parts])
        truth = np.concatenate([part.truth for part in parts])
        return {
            "bayes_ne": {
                "train": bayes_ne(labels[:num_train], truth[:num_train]),
                "test": bayes_ne(labels[num_train:rows], truth[num_train:rows]),
            },
            "planted": {
                "pairs": [[f"field{j}" for j in pair] for pair in pairs(len(sizes))],
                "triples": [[f"field{j}" for j in triple] for triple in triples(len(sizes))],
                "weights": dict(WEIGHTS),
            },
        }

    settings = {
        "reader": "synthetic",
        "version": VERSION,
        "num_rows": num_rows,
        "seed": seed,
        "sizes": list(sizes),
        "drift_rows": drift_rows,
        "weights": WEIGHTS,
        "biases": list(BIASES),
    }
    return Source(
        name="synthetic",
        settings=settings,
        files=(),
        columns=columns,
        chunks=lambda raw, progress: (_chunk(rows, columns) for rows in chunks()),
        origin=f"generated, seed {seed}",
        licence="public domain",
        notes=notes,
    )


def generate(
    num_rows: int, *, seed: int, sizes: tuple[int, ...], drift_rows: int
) -> Iterator[Rows]:
    """The stream, chunk by chunk."""
    teachers = [_teacher(seed, task, sizes) for task in range(2)]
    ladders = [np.cumsum(_popularity(size)) for size in sizes]
    for index in range(-(-num_rows // CHUNK)):
        rows = _rows(index, seed, ladders, teachers, drift_rows)
        keep = min(CHUNK, num_rows - index * CHUNK)
        yield Rows(*(array[:keep] for array in rows))


def bayes_ne(labels: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """NE of the true probabilities on labels [n, 2], per metric.

    None where there is one class only.
    """
    click, conversion = labels[:, 0].astype(bool), labels[:, 1].astype(bool)
    found = {
        "ctr": normalized_entropy(truth[:, 0], click),
        "cvr": normalized_entropy(truth[click, 1], conversion[click]),
        "ctcvr": normalized_entropy(truth[:, 0] * truth[:, 1], click & conversion),
    }
    # JSON has no NaN.
    return {metric: None if np.isnan(ne) else ne for metric, ne in found.items()}


def pairs(num_fields: int) -> list[tuple[int, int]]:
    """Fields that interact in pairs: the smallest with the largest, and so on inwards."""
    return [(j, num_fields - 1 - j) for j in range(num_fields // 2)]


def triples(num_fields: int) -> list[tuple[int, int, int]]:
    """Fields that interact in threes.

    The smaller half, three at a time, at least the first three.
    """
    return [(j, j + 1, j + 2) for j in range(0, max(1, num_fields // 2 - 2), 3)]


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))


def _popularity(size: int) -> np.ndarray:
    """Probability of each id."""
    weights = np.arange(1, size + 1) ** -EXPONENT
    return weights / weights.sum()


def _teacher(seed: int, task: int, sizes: tuple[int, ...]) -> Teacher:
    """Effects of zero mean, unit variance and no correlation under the popularity of the ids."""
    main, later, latents = [], [], []
    for j, size in enumerate(sizes):
        raw = _generator(seed, TEACHERS + 1000 * task + j).normal(size=(size, 2 + LATENTS))
        popularity = _popularity(size)
        raw -= popularity @ raw
        white = np.linalg.cholesky((raw * popularity[:, None]).T @ raw)
        effects = np.linalg.solve(white, raw.T).T
        main.append(effects[:, 0])
        later.append(effects[:, 1])
        latents.append(effects[:, 2:])
    return Teacher(tuple(main), tuple(later), tuple(latents))


def _rows(
    index: int, seed: int, ladders: list[np.ndarray], teachers: list[Teacher], drift_rows: int
) -> Rows:
    """A whole chunk: the draws do not depend on where the stream ends."""
    generator = _generator(seed, index)
    uniforms = generator.random((CHUNK, len(ladders)))
    ids = np.stack(
        [
            np.minimum(np.searchsorted(ladder, uniforms[:, j]), len(ladder) - 1)
            for j, ladder in enumerate(ladders)
        ],
        1,
    ).astype(np.int32)
    normals = generator.normal(size=(CHUNK, NUM_DENSE))
    absent = generator.random((CHUNK, NUM_DENSE)) < MISSING_SHARE
    coins = generator.random((CHUNK, 2))
    row = index * CHUNK + np.arange(CHUNK)
    turn = 2 * np.pi * row / drift_rows
    season = 0.15 * np.sin(2 * np.pi * row / SEASON_ROWS)
    known = np.where(absent, 0.0, normals)
    click = _terms(teachers[0], ids, known, turn)
    own = _terms(teachers[1], ids, known, turn)
    conversion = SHARED * click + np.sqrt(1 - SHARED**2) * own
    truth = 1 / (1 + np.exp(-np.stack([BIASES[0] + season + click, BIASES[1] + conversion], 1)))
    clicked = coins[:, 0] < truth[:, 0]
    converted = clicked & (coins[:, 1] < truth[:, 1])
    labels = np.stack([clicked, converted], 1).astype(np.int8)
    return Rows(ids, np.where(absent, np.nan, _seen(normals)), labels, truth)


def _terms(teacher: Teacher, ids: np.ndarray, known: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The weighted sum, without bias; [n]."""
    num_fields = ids.shape[1]
    latent = [teacher.latents[j][ids[:, j]] for j in range(num_fields)]
    main = np.zeros(len(ids))
    for j in range(num_fields):
        now, later = teacher.main[j][ids[:, j]], teacher.later[j][ids[:, j]]
        main += np.cos(turn) * now + np.sin(turn) * later if j % 3 == 0 else now
    pair = sum((latent[i] * latent[j]).sum(1) for i, j in pairs(num_fields))
    triple = sum((latent[i] * latent[j] * latent[k]).sum(1) for i, j, k in triples(num_fields))
    dense = known[:, 0] + (known[:, 1] ** 2 - 1) / np.sqrt(2) + known[:, 2] * latent[0][:, 0]
    groups = {
        "main": (main, num_fields),
        "pair": (pair, LATENTS * len(pairs(num_fields))),
        "triple": (triple, LATENTS * len(triples(num_fields))),
        "dense": (dense, NUM_DENSE),
    }
    return sum(
        (WEIGHTS[name] / np.sqrt(variance) * term for name, (term, variance) in groups.items()),
        start=np.zeros(len(ids)),
    )


def _seen(normals: np.ndarray) -> np.ndarray:
    """Dense columns as a log has them.

    A price, a signed balance, a signed number with long tails.
    """
    return np.stack(
        [np.exp(3 + normals[:, 0]), 100 * normals[:, 1], np.sinh(2 * normals[:, 2])], 1
    ).round(3)


def _chunk(rows: Rows, columns: Columns) -> Chunk:
    names = (*columns.categorical, *columns.dense, *columns.labels)
    arrays = (*rows.ids.T, *rows.dense.T, *rows.labels.T)
    return Chunk(dict(zip(names, arrays, strict=True)), "synthetic")
