"""A stream of rows whose truth is known: popular and rare ids, planted interactions of up to three fields, and drift.

A logit is a sum of terms with zero mean and unit variance under the distribution of the ids, each with a known weight:

    main    w_j[id_j] of every field; every third one drifts into another effect over ``drift_rows`` rows
    pair    <u_i[id_i], u_j[id_j]> / sqrt(L)
    triple  sum_l u_i[id_i]_l u_j[id_j]_l u_k[id_k]_l / sqrt(L)
    dense   linear, quadratic, and one times a latent of a field

Its variance is therefore the sum of the squared weights. There is a logit for the click, and one for the conversion
given a click.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from autorank.base.cores import available_cores

CHUNK = 1 << 16  # rows drawn together; changing it changes the stream of a seed
MOST_WORKERS = 8  # threads that draw
LATENTS = 4  # L
NUM_DENSE = 3
MISSING_SHARE = 0.05  # share of missing values in each dense column
SIZES = (16, 32, 64, 100, 200, 400, 800, 1500, 3000, 6000, 12000, 26000)
EXPONENT = 1.05  # the popularity of the i-th id is proportional to i ** -EXPONENT
SEASON_ROWS = 50_000  # period of the base rate
TEACHERS = 1 << 62  # first Philox key for teachers; smaller keys are for chunks

# Standard deviation of each group of terms, in the logits of click and of conversion given click.
WEIGHTS = {"main": 0.90, "pair": 0.75, "triple": 0.45, "dense": 0.50}
BIASES = (-1.35, -1.1)
SHARED = 0.5  # weight of the click's logit in the logit of the conversion


class Teacher(NamedTuple):
    """The effects that decide the labels of one task, one array per field.

    Attributes:
        main: [v], the effects at the start of the stream.
        later: [v], the effects into which ``main`` drifts.
        latents: [v, L], the factors of interactions.
    """

    main: tuple[np.ndarray, ...]
    later: tuple[np.ndarray, ...]
    latents: tuple[np.ndarray, ...]


class Rows(NamedTuple):
    """Consecutive rows with their true probabilities.

    Attributes:
        ids: int32 [n, f].
        dense: float64 [n, 3], NaN for missing values.
        labels: int8 [n, 2].
        truth: float64 [n, 2], P(click) and P(conversion | click).
    """

    ids: np.ndarray
    dense: np.ndarray
    labels: np.ndarray
    truth: np.ndarray


def generate(
    num_rows: int, *, seed: int, sizes: tuple[int, ...], drift_rows: int
) -> Iterator[Rows]:
    """The first ``num_rows`` rows of the stream ``seed``, in chunks of `CHUNK` rows.

    Args:
        num_rows: rows in total.
        seed: chooses the stream.
        sizes: ids of each field.
        drift_rows: rows in which a drifting effect completes a full turn.

    Examples:
        >>> rows = next(generate(5, seed=0, sizes=(8, 8, 8, 8), drift_rows=1000))
        >>> rows.ids.shape, rows.dense.shape, rows.labels.shape
        ((5, 4), (5, 3), (5, 2))
    """
    teachers = [make_teacher(seed, task, sizes) for task in range(2)]
    cumulative = [np.cumsum(popularity(size)) for size in sizes]

    def draw(index: int) -> Rows:
        rows = _rows(index, seed, cumulative, teachers, drift_rows)
        keep = min(CHUNK, num_rows - index * CHUNK)
        return Rows(*(array[:keep] for array in rows))

    workers = min(MOST_WORKERS, available_cores())
    waiting: deque[Future[Rows]] = deque()
    # NumPy draws outside the interpreter lock. A few chunks ahead, so that memory is theirs alone.
    with ThreadPoolExecutor(workers) as pool:
        for index in range(-(-num_rows // CHUNK)):
            waiting.append(pool.submit(draw, index))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def bayes_ne(labels: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """The NE of the true probabilities [n, 2] on labels [n, 2], by metric; None if all labels are equal.

    No model can be expected to do better on these rows.
    """
    # Imports scipy.stats, which takes longer than all of `autorank.data`, and every command imports this module.
    from autorank.base.metrics import normalized_entropy

    click, conversion = labels[:, 0].astype(bool), labels[:, 1].astype(bool)
    found = {
        "ctr": normalized_entropy(truth[:, 0], click),
        "cvr": normalized_entropy(truth[click, 1], conversion[click]),
        "ctcvr": normalized_entropy(truth[:, 0] * truth[:, 1], click & conversion),
    }
    # JSON has no NaN.
    return {metric: None if np.isnan(ne) else ne for metric, ne in found.items()}


def pairs(num_fields: int) -> list[tuple[int, int]]:
    """Fields that interact in pairs: the smallest with the largest, and so on inwards.

    Examples:
        >>> pairs(4)
        [(0, 3), (1, 2)]
    """
    return [(j, num_fields - 1 - j) for j in range(num_fields // 2)]


def triples(num_fields: int) -> list[tuple[int, int, int]]:
    """Fields that interact in threes: the smaller half, three at a time; at least the first three."""
    return [(j, j + 1, j + 2) for j in range(0, max(1, num_fields // 2 - 2), 3)]


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))


def popularity(size: int) -> np.ndarray:
    """The probability of each id."""
    weights = np.arange(1, size + 1) ** -EXPONENT
    return weights / weights.sum()


def make_teacher(seed: int, task: int, sizes: tuple[int, ...]) -> Teacher:
    """Draws effects with zero mean, unit variance and no correlation under the popularity of the ids."""
    main, later, latents = [], [], []
    for j, size in enumerate(sizes):
        raw = _generator(seed, TEACHERS + 1000 * task + j).normal(size=(size, 2 + LATENTS))
        shares = popularity(size)
        raw -= shares @ raw
        white = np.linalg.cholesky((raw * shares[:, None]).T @ raw)
        effects = np.linalg.solve(white, raw.T).T
        main.append(effects[:, 0])
        later.append(effects[:, 1])
        latents.append(effects[:, 2:])
    return Teacher(tuple(main), tuple(later), tuple(latents))


def _rows(
    index: int, seed: int, cumulative: list[np.ndarray], teachers: list[Teacher], drift_rows: int
) -> Rows:
    """A whole chunk, so that the draws do not depend on where the stream ends."""
    generator = _generator(seed, index)
    uniforms = generator.random((CHUNK, len(cumulative)))
    ids = np.stack(
        [
            np.minimum(np.searchsorted(steps, uniforms[:, j]), len(steps) - 1)
            for j, steps in enumerate(cumulative)
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
    click = logit_terms(teachers[0], ids, known, turn)
    own = logit_terms(teachers[1], ids, known, turn)
    conversion = SHARED * click + np.sqrt(1 - SHARED**2) * own
    truth = 1 / (1 + np.exp(-np.stack([BIASES[0] + season + click, BIASES[1] + conversion], 1)))
    clicked = coins[:, 0] < truth[:, 0]
    converted = clicked & (coins[:, 1] < truth[:, 1])
    labels = np.stack([clicked, converted], 1).astype(np.int8)
    return Rows(ids, np.where(absent, np.nan, _seen(normals)), labels, truth)


def logit_terms(
    teacher: Teacher, ids: np.ndarray, known: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """The weighted sum of all terms, without bias; [n].

    ``turn`` [n] is the angle of the drift.
    """
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
    """Dense columns as a log has them: a price, a signed balance, and a signed number with long tails."""
    return np.stack(
        [np.exp(3 + normals[:, 0]), 100 * normals[:, 1], np.sinh(2 * normals[:, 2])], 1
    ).round(3)
