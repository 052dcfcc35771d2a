"""Rows per CPU second of encoding Criteo text, of streaming prepared rows, and of finding a batch's distinct ids.

    pip install -e '.[peers]' && python -m experiments.speed.data [--rounds 3]

Rows are generated (`criteo_like`). Encoding covers every step: parsing 40 columns, counting values in the first 80 % of
the rows, ids by count (at least 2) in row-major int32, logarithm and scale of 13 columns, and writing three `.npy`
files. Ours also writes parts from which it can resume, checks every cell, and hashes what it wrote. pandas does the
work of the vocabulary variant in memory and gets the same ids; its text columns are Arrow's (default of pandas 3) or
Python strings (the default before). A floor copies the same bytes once.
"""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.machine import ROOT
from experiments.speed.figures import Figure, Target
from experiments.speed.harness import Bench, Ratio, Timer, run

CACHE = ROOT / "data_cache" / "bench"
ROWS, VOCABULARY, BATCH = 500_000, 2_020_000, 4096
TSV = f"Criteo text, {ROWS // 1000}k rows x 40"
BLOCKS = f"{ROWS // 1000}k rows, blocks of {BATCH}"
LOOKUPS = f"batches of {BATCH} x 26, V=2.02M"
METRIC = "rows per CPU second"
LOOPS = "compiled loops"


def text_file(rows: int = ROWS) -> Path:
    """The generated file, made once."""
    from autorank.data.logs import criteo_like_text, criteo_like_truth

    path = CACHE / f"criteo_like_{criteo_like_truth.VERSION}_{rows}.txt"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        criteo_like_text.write(partial, rows, max_vocabulary=VOCABULARY)
        partial.replace(path)
    return path


def ours(encoding: str, between: Callable[[], None] = lambda: None, compiled: bool = True) -> Timer:
    """Time of `store.prepare` of the file, after a short file so that one-time loading is not counted."""
    from autorank.data.fast_text import short_strings
    from autorank.data.logs import criteo
    from autorank.data.prepare import store

    timer, worth = Timer(), short_strings.COMPILE_FROM_BYTES
    for rows in (2000, ROWS):
        # A short file would not load the compiled loops.
        short_strings.COMPILE_FROM_BYTES = 1 << 62 if not compiled else 0 if rows < ROWS else worth
        between()
        source, folder = criteo.source(text_file(rows)), CACHE / encoding
        shutil.rmtree(folder, ignore_errors=True)
        with timer:
            store.prepare(source, folder, encoding=encoding, workers=1, progress=lambda line: None)
    return timer


def stages(encoding: str) -> dict[str, Figure]:
    """CPU microseconds a row of each step of `store.prepare`, in a separate run because the timing costs a little."""
    from autorank.data.prepare import encoders_file, ingest, pipeline, text_segments

    steps = {
        "read and count lines": ((text_segments, "_read"), (text_segments, "count_lines")),
        "parse": ((text_segments, "parse"),),
        "distinct values or hashes": ((ingest, "code_column"), (ingest, "hashed_ids")),
        "logarithms": ((ingest, "take_logs"),),
        "write parts": ((ingest, "write_part"),),
        "merge vocabularies": ((pipeline, "learn_vocabulary"),),
        "scales": ((pipeline, "learn_scale"),),
        "final matrices": ((pipeline, "write_matrices"),),
        "encoders.json": ((encoders_file, "write_encoders"),),
        "SHA-256 of the result": ((pipeline, "sha256"),),
    }
    spent = dict.fromkeys(steps, 0.0)

    def timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run_it(*arguments: Any, **named: Any) -> Any:
            begin = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[step] += time.thread_time() - begin

        return run_it

    for step, places in steps.items():
        for module, name in places:
            setattr(module, name, timed(step, getattr(module, name)))
    whole = ours(encoding, between=lambda: spent.update(dict.fromkeys(steps, 0.0))).cpu
    spent["everything else"] = whole - sum(spent.values())
    return {step: Figure(1e6 * seconds / ROWS, "us a row") for step, seconds in spent.items()}


def loading(variant: str) -> dict[str, Figure]:
    """CPU seconds of loading the compiled loops: compiled for the first time, or kept by an earlier process."""
    from autorank.data.fast_text import loops

    found = pkgutil.iter_modules(loops.__path__, f"{loops.__name__}.")
    modules = [module.name for module in found]
    with tempfile.TemporaryDirectory() as folder:
        # numba reads it when it is imported, which these modules do.
        os.environ["NUMBA_CACHE_DIR"] = folder
        if variant == "kept":
            subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], check=True)
        with Timer() as timer:
            for module in modules:
                importlib.import_module(module)
    return {"CPU seconds": Figure(timer.cpu, "s")}


def peer(python_strings: bool) -> Timer:
    """Time of pandas for the same arrays, after a short file; the arrays must equal ours."""
    timer = Timer()
    for rows in (2000, ROWS):
        path, out = text_file(rows), CACHE / "pandas"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with timer:
            with_pandas(path, out, python_strings)
    reference = CACHE / "vocabulary"
    if reference.exists():
        for name in ("sparse", "labels"):
            np.testing.assert_array_equal(*(np.load(f / f"{name}.npy") for f in (reference, out)))
        dense = (np.load(folder / "dense.npy") for folder in (reference, out))
        np.testing.assert_allclose(*dense, rtol=1e-3, atol=1e-4)
    return timer


def with_pandas(path: Path, out: Path, python_strings: bool) -> None:
    """Encodes a Criteo file as one would with pandas."""
    import pandas as pd  # pyright: ignore[reportMissingImports]

    from autorank.data.logs.criteo import COLUMNS, FORMAT

    types = dict.fromkeys(COLUMNS.categorical, object) if python_strings else None
    frame = pd.read_csv(path, sep="\t", header=None, names=list(FORMAT.columns or ()), dtype=types)
    train = round(0.8 * len(frame))
    sparse = np.empty((len(frame), len(COLUMNS.categorical)), np.int32)
    offset = 0
    for j, name in enumerate(COLUMNS.categorical):
        codes, values = pd.factorize(frame[name])
        known = codes[:train][codes[:train] >= 0]
        counts = np.bincount(known, minlength=len(values))
        kept = np.flatnonzero(counts >= 2)
        kept = kept[np.argsort(-counts[kept], kind="stable")]
        ids = np.full(len(values) + 1, 1, np.int32)
        ids[-1] = 0
        ids[kept] = np.arange(2, 2 + len(kept))
        sparse[:, j] = offset + ids[codes]
        offset += 2 + len(kept)
    dense = np.empty((len(frame), len(COLUMNS.dense)), np.float32)
    for k, name in enumerate(COLUMNS.dense):
        numbers = frame[name].to_numpy(np.float64)
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
        mean, std = np.nanmean(numbers[:train]), np.nanstd(numbers[:train])
        dense[:, k] = np.nan_to_num((numbers - mean) / std)
    np.save(out / "sparse.npy", sparse)
    np.save(out / "dense.npy", dense)
    np.save(out / "labels.npy", frame[COLUMNS.click].to_numpy(np.int8)[:, None])


def prepared() -> Path:
    """A prepared folder, made once."""
    from autorank.data.logs import criteo
    from autorank.data.prepare import store

    folder = CACHE / "stream"
    store.prepare(criteo.source(text_file()), folder, progress=lambda line: None)
    return folder


def stream(variant: str) -> Timer:
    """Passes over the prepared rows, files in the page cache."""
    from autorank.data.prepare import store
    from autorank.data.prepare.stream import blocks

    data = store.load(prepared())
    arrays = (data.sparse, data.dense, data.labels)
    held = [np.array(array) for array in arrays]
    into = [np.empty_like(array) for array in held]
    for passes in (1, 5):
        with Timer() as timer:
            for _ in range(passes):
                if variant.startswith("floor"):
                    for array, target in zip(held, into, strict=True):
                        np.copyto(target, array)
                    continue
                kind = np.float16 if "float16" in variant else np.float32
                ahead = 2 if "thread" in variant else 0
                for _block in blocks(data, BATCH, ahead=ahead, dense_dtype=kind):
                    pass
    timer.cpu /= 5
    return timer


def dedup(variant: str) -> Timer:
    """Distinct ids of batches in turn."""
    from autorank.data.logs import criteo_like
    from autorank.data.prepare.stream import deduplicator

    sparse = criteo_like.arrays(ROWS, max_vocabulary=VOCABULARY, workers=1).sparse
    batches = [sparse[first : first + BATCH] for first in range(0, ROWS - BATCH + 1, BATCH)]
    find = deduplicator(VOCABULARY)
    into = np.empty_like(batches[0])
    for warm in (batches[:4], batches):
        with Timer() as timer:
            for batch in warm:
                if variant.startswith("floor"):
                    np.copyto(into, batch)
                elif variant == "np.unique":
                    np.unique(batch, return_inverse=True)
                else:
                    find(batch)
    timer.cpu *= ROWS / (len(batches) * BATCH)
    return timer


def generate() -> Timer:
    """Rows as arrays."""
    from autorank.data.logs import criteo_like

    criteo_like.arrays(8192, max_vocabulary=VOCABULARY, workers=1)
    with Timer() as timer:
        criteo_like.arrays(ROWS, max_vocabulary=VOCABULARY, workers=1)
    return timer


def measure(shape: str, variant: str) -> dict[str, Figure]:
    """Measures one case."""
    if shape == LOOPS:
        return loading(variant)
    if variant.startswith("steps"):
        return stages(variant.split()[-1])
    if shape == TSV:
        if variant.startswith("pandas"):
            timer = peer("Python" in variant)
        elif variant == "generate arrays":
            timer = generate()
        else:
            timer = ours(variant.split()[-1], compiled="not compiled" not in variant)
    elif shape == BLOCKS:
        timer = stream(variant)
    else:
        timer = dedup(variant)
    return {METRIC: Figure(ROWS / timer.cpu, "rows/s")}


CASES = (
    (TSV, "ours, vocabulary"),
    (TSV, "ours, hash"),
    (TSV, "ours, not compiled, vocabulary"),
    (TSV, "pandas"),
    (TSV, "pandas, Python strings"),
    (TSV, "generate arrays"),
    (TSV, "steps of ours, vocabulary"),
    (TSV, "steps of ours, hash"),
    (LOOPS, "first time"),
    (LOOPS, "kept"),
    (BLOCKS, "mapped files, thread"),
    (BLOCKS, "mapped files, thread, float16"),
    (BLOCKS, "mapped files"),
    (BLOCKS, "floor: one copy in memory"),
    (LOOKUPS, "marks and places"),
    (LOOKUPS, "np.unique"),
    (LOOKUPS, "floor: one copy in memory"),
)
RATIOS = (
    Ratio(TSV, METRIC, "ours, vocabulary", "pandas", 3.0),
    Ratio(TSV, METRIC, "ours, hash", "pandas", 3.0),
    Ratio(TSV, METRIC, "ours, vocabulary", "pandas, Python strings", 3.0),
    Ratio(TSV, METRIC, "ours, hash", "pandas, Python strings", 3.0),
    Ratio(LOOKUPS, METRIC, "marks and places", "np.unique", 2.0),
)
BOUNDS = {
    (BLOCKS, "mapped files, thread", METRIC): Target(5e6),
    (LOOKUPS, "marks and places", METRIC): Target(4e6),
}
BENCH = Bench("data", CASES, measure, RATIOS, BOUNDS)

if __name__ == "__main__":
    run(BENCH)
