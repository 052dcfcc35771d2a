"""Prepares random tables, trains on them at toy size and scores them: no traceback, no lost row, no row read two ways.

    python -m experiments.fuzz.tables --tables 10000 --seed 0 --workers 32

Table i is made from the seed ``--seed`` + i (`made_tables`): 1 to 3 categorical and 0 to 2 dense columns, one or two
labels, of many types and contents, some of them broken, as text, Parquet or Arrow. Each is prepared; if it is
refused, the message must name the file or a column. A model of the package's own architecture is trained on its rows
for a few steps (three programs in all, compiled once per process), its encoders are saved, and the file is scored. For
one table in 200, the whole exported model is saved, loaded and scored with. The checks:

- errors are `ValueError` or `OSError` with such a message, never anything else;
- the rows kept and the rows reported broken are together all rows of the file;
- every row of the file has a line in the scores, in order, with probabilities or a reason;
- each row that preparation kept is encoded identically in scoring, and its scores are the model's, to 1e-6;
- the same rows in another form of file have the same scores.

Prints how many tables were read and refused, by kind of message, and each failure with its seed, which
``--seed S --tables 1`` reproduces. The exit status is 1 if there is a failure.
"""

import argparse
import collections
import functools
import logging
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq

from autorank.data.fast_text import short_strings
from autorank.data.logs import rows_to_score, table
from autorank.data.prepare import encoders_file, ingest, scoring_files, store, text_segments
from autorank.data.prepare.encoders import encode_rows
from autorank.data.prepare.parse_text import LINE_ENDS_INSIDE
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.models.heads import METRICS
from autorank.score import score
from autorank.serving.export import Scorer
from autorank.serving.score_file import write_scores
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.trainer import make_program
from experiments.fuzz.made_tables import MOST_ROWS, Fuzzed, fuzz

BATCH, IDS, SAVED_EVERY = 4, 3 * 64, 200
HEADS = {1: "ctr", 2: "esmm"}
MODEL = DhenConfig(
    width=4,
    num_layers=1,
    num_tokens=2,
    layer1=LayerConfig("cross", "linear"),
    norm="none",
    head_width=4,
)
HPARAMS = Hparams(*(jnp.float32(v) for v in (1e-2, 0.1, 1e-8, 1e-8, 0.0, 1.0, 0.1)))


class Outcome(NamedTuple):
    """The outcome of one table."""

    seed: int
    kind: str  # read, refused, failed
    message: str = ""


def check(seed: int) -> Outcome:
    """Makes, prepares, trains on and scores the table of a seed."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), readers(seed):
        warnings.simplefilter("ignore")
        try:
            fuzzed = fuzz(seed, Path(scratch))
            refused = prepare(fuzzed, Path(scratch) / "data")
            if refused is not None:
                named = (
                    fuzzed.path.name,
                    "schema.yaml",
                    *map(repr, fuzzed.columns),
                    *fuzzed.columns,
                )
                if not any(name in refused for name in named) or "\n" in refused:
                    return Outcome(seed, "failed", f"refused without a name: {refused}")
                return Outcome(seed, "refused", refused)
            compare(fuzzed, Path(scratch), seed)
        except Exception:
            return Outcome(seed, "failed", traceback.format_exc())
    return Outcome(seed, "read")


def start() -> None:
    """Sets up a worker process."""
    logging.disable(logging.CRITICAL)
    ingest.KEPT_BAD_ROWS = 1 << 20  # all of them are compared


@contextmanager
def readers(seed: int) -> Iterator[None]:
    """Some tables are prepared by the compiled reader of much data, some in pieces of a few lines."""
    before = short_strings.COMPILE_FROM_BYTES, text_segments.SEGMENT_BYTES
    short_strings.COMPILE_FROM_BYTES = 0 if seed % 4 == 3 else before[0]
    text_segments.SEGMENT_BYTES = 150 if seed % 3 == 2 else before[1]
    try:
        yield
    finally:
        short_strings.COMPILE_FROM_BYTES, text_segments.SEGMENT_BYTES = before


def prepare(fuzzed: Fuzzed, folder: Path) -> str | None:
    """Prepares a table; returns the message if it is refused, and raises any other error."""
    try:
        source = table.source(fuzzed.path, fuzzed.schema)
        store.prepare(source, folder, workers=1, progress=lambda line: None, **fuzzed.settings)
    except (ValueError, OSError) as error:
        if type(error).__module__ != "builtins":
            raise
        return str(error)
    return None


def compare(fuzzed: Fuzzed, folder: Path, seed: int) -> None:
    """Trains on the prepared rows and compares the scores of the file with the model's."""
    data = store.load(folder / "data")
    scoring_files.save_scoring_files(data, folder / "model")
    kept, places = kept_places(fuzzed, folder, data.schema)
    sparse, dense, labels = (np.asarray(a) for a in (data.sparse, data.dense, data.labels))
    predict = train(sparse, dense, labels, data.schema.num_train)
    head = METRICS[HEADS[fuzzed.labels]]
    own = rows_of(sparse, dense, predict(sparse, dense))
    reference = None
    for path in (fuzzed.path, *fuzzed.again):
        theirs, scores = scored(path, folder, predict, head, kept, places)
        inputs = sparse.shape[1] + dense.shape[1]
        a, b = (rows[np.lexsort(rows[:, :inputs].T[::-1])] for rows in (own, theirs))
        expect(np.array_equal(a[:, :inputs], b[:, :inputs]), f"{path.name}: encoded differently")
        expect(np.allclose(a, b, rtol=0, atol=1e-6), f"{path.name}: different scores")
        same = reference is None or np.allclose(
            reference, scores, rtol=0, atol=1e-6, equal_nan=True
        )
        expect(same, f"{path.name}: another form has different scores")
        reference = scores
    if seed % SAVED_EVERY == 0:
        whole_artefact(data, folder, sparse, dense, labels, head)


def kept_places(fuzzed: Fuzzed, folder: Path, schema: Any) -> tuple[list[int], list[int]]:
    """The places of the rows that preparation kept, and of all rows; checks that every row is accounted for.

    An unclosed quote joins lines into one row. Which lines it joins, and how many, is taken from the reader.
    """
    reading, encoders = (
        scoring_files.load_reading(folder / "model"),
        encoders_file.read_encoders(folder / "model"),
    )
    parts = list(rows_to_score.read_rows_to_score(fuzzed.path, reading, encoders))
    bad = {
        int(row.partition(": ")[0].rpartition(":")[2]) for row in schema.notes["bad_rows"]["first"]
    }
    unread = {line for part in parts for line, _ in part.bad}
    places = sorted(unread | {int(line) for part in parts for line in part.lines})
    empty = (set(fuzzed.empty) & unread) - bad
    kept = [place for place in places if place not in bad | empty]
    inside, blank = schema.notes.get(LINE_ENDS_INSIDE, 0), set(fuzzed.blank)
    found = (
        f"{schema.num_rows} kept, {len(bad)} broken, {len(empty)} empty, {inside} line ends inside"
    )
    expect(len(bad) == schema.notes["bad_rows"]["count"], f"{found}: another number is reported")
    expect(schema.num_rows == len(kept), f"{found}; {len(kept)} rows are not reported")
    expect(bad | empty <= set(places), f"{found}; scoring has no line for {bad - set(places)}")
    if inside:
        total, most = len(places) + inside, len(fuzzed.places) + len(blank)
        expect(
            len(fuzzed.places) <= total <= most, f"{found} of {len(fuzzed.places)} to {most} lines"
        )
    else:
        lines = set(fuzzed.places) | (bad & blank)
        expect(set(places) == lines, f"{found}: lines {places}, not {sorted(lines)}")
    return kept, places


def scored(
    path: Path, folder: Path, predict: Any, head: Sequence[str], kept: list[int], places: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The encoded rows that preparation kept, with their scores, and the scores of all rows of the file [n, q]."""
    encoders, reading = (
        encoders_file.read_encoders(folder / "model"),
        scoring_files.load_reading(folder / "model"),
    )
    seen: list[np.ndarray] = []

    def watched() -> Iterator[rows_to_score.RowsToScore]:
        for part in rows_to_score.read_rows_to_score(path, reading, encoders):
            ids, numbers, wrong = encode_rows(encoders, part.features)
            place = {int(line): row for row, line in enumerate(part.lines)}
            rows = [place[line] for line in kept if line in place]
            refused = {*wrong, *part.reasons} & set(rows)
            expect(not refused, f"{path.name}: {wrong} {part.reasons}")
            seen.append(rows_of(ids[rows], numbers[rows], predict(ids[rows], numbers[rows])))
            yield part

    out = folder / "out.parquet"
    write_scores(watched(), encoders, Scorer(predict, tuple(head), {}), out)
    found = pq.read_table(out)
    lines = found["line"].to_pylist()
    expect(lines == places, f"{path.name}: lines {lines}, not {places}")
    scores = np.array([found[f"p_{name}"].to_pylist() for name in head], np.float64).T
    has_reason = np.array([why is not None for why in found["reason"].to_pylist()], bool)
    expect((np.isnan(scores) == has_reason[:, None]).all(), "a score and a reason, or neither")
    of_kept = np.isin(lines, kept)
    expect(not (has_reason & of_kept).any(), f"{path.name}: a kept row has no score")
    theirs = np.concatenate(seen)
    expect(np.allclose(scores[of_kept], theirs[:, -len(head) :], rtol=0, atol=1e-6), "reordered")
    return theirs, scores


def whole_artefact(
    data: Any, folder: Path, sparse: Any, dense: Any, labels: Any, head: Any
) -> None:
    """Saves, loads and scores with the whole exported model, as a user does."""
    from autorank.serving.export import save_model

    predict, params, rows = trained(sparse, dense, labels, data.schema.num_train)
    save_model(
        folder / "model",
        predict,
        params,
        rows,
        num_fields=sparse.shape[1],
        num_dense=dense.shape[1],
        metrics=head,
        example=(sparse[:9], dense[:9]),
        description={},
    )
    path = next(path for path in folder.iterdir() if path.name.lower().startswith(("log", "plain")))
    found = pq.read_table(score(folder, path, folder / "whole.parquet"))
    before = pq.read_table(folder / "out.parquet")
    for name in head:
        a, b = (np.array(t[f"p_{name}"].to_pylist(), np.float64) for t in (found, before))
        expect(np.allclose(a, b, rtol=0, atol=1e-6, equal_nan=True), f"p_{name} of the artefact")


def expect(condition: Any, message: str) -> None:
    """Fails the check of the table unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def rows_of(sparse: np.ndarray, dense: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The ids, dense features and scores of each row side by side."""
    return np.concatenate([sparse, dense, scores], axis=1).astype(np.float64)


@functools.cache
def programs(num_fields: int, num_dense: int, num_labels: int) -> Any:
    """Training and scoring of one shape, compiled at first use."""
    head = HEADS[num_labels]
    program = make_program(
        compact(replace(MODEL, head=head), num_fields, num_dense),
        head=head,
        width=4,
        num_ids=IDS,
        batch_size=BATCH,
        num_windows=1,
    )
    return program.empty, jax.jit(program.run), jax.jit(program.predict)


def trained(sparse: np.ndarray, dense: np.ndarray, labels: np.ndarray, num_train: int) -> Any:
    """A model of some rows: its function, parameters and table."""
    empty, run, predict = programs(sparse.shape[1], dense.shape[1], labels.shape[1])
    size = -(-MOST_ROWS // BATCH) * BATCH
    data = Data(*(jnp.asarray(padded(a, size)) for a in (sparse, dense, labels.astype(np.float32))))
    steps = jnp.int32(max(1, num_train // BATCH))
    schedule = Schedule(steps, jnp.int32(1))
    state = run(jax.random.key(0), empty(), HPARAMS, schedule, data, jnp.int32(0), steps)
    return predict, state.params, state.table.rows


def train(sparse: np.ndarray, dense: np.ndarray, labels: np.ndarray, num_train: int) -> Any:
    """A model's probabilities as a function of encoded rows, any number of them."""
    predict, params, rows = trained(sparse, dense, labels, num_train)

    def probabilities(ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        size = 2 * MOST_ROWS
        found = predict(params, rows, padded(ids, size), padded(numbers, size))
        return np.asarray(found)[: len(ids)]

    return probabilities


def padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Appends rows of zeros up to a number of rows."""
    return np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), rows.dtype)])


def kind_of(message: str) -> str:
    """The kind of a refusal: its message without the details of its table."""
    if message.startswith("not one usable row"):
        return message.partition(" (")[0]
    found = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]", "...", message)
    found = re.sub(r"\S*(/tmp|log|LOG|plain|other)\S*", "FILE", found)
    return re.sub(r"\d[\d,.]*", "N", found)[:110]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    options = parser.parse_args(arguments)
    seeds = range(options.seed, options.seed + options.tables)
    counts: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    began = last = time.monotonic()
    pool = (
        ProcessPoolExecutor(options.workers, get_context("spawn"), start)
        if options.workers > 1
        else None
    )
    found = map(check, seeds) if pool is None else pool.map(check, seeds, chunksize=8)
    start()
    failures = []
    for number, outcome in enumerate(found, 1):
        counts[outcome.kind] += 1
        if outcome.kind == "refused":
            kinds[kind_of(outcome.message)] += 1
        if outcome.kind == "failed":
            failures.append(outcome.seed)
            print(f"--seed {outcome.seed} --tables 1:\n{outcome.message}", flush=True)
        if time.monotonic() - last > 10:
            last = time.monotonic()
            print(
                f"{number:,} of {len(seeds):,} tables, {number / (last - began):.1f}/s", flush=True
            )
    if pool is not None:
        pool.shutdown()
    for kind, count in kinds.most_common():
        print(f"{count:6,} refused: {kind}")
    print(
        f"{len(seeds):,} tables from seed {options.seed}: {counts['read']:,} read, {counts['refused']:,} "
        f"refused, {counts['failed']:,} failed; {time.monotonic() - began:.0f} s"
    )
    if failures:
        print(f"failed seeds: {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
