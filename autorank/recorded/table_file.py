"""The Parquet file that holds a finished recorded table.

Columns of the file, one row a run, ordered by ``number`` and ``repeat``:

- ``number``, ``repeat``, ``seed``, ``session``: which configuration (0 is the baseline), which of its seeds, the
  training seed itself, and which of the metadata's sessions recorded it.
- ``choices``: the configuration, one choice index for each decision of the space, int16.
- ``curve_METRIC``: window NE, float32, NaN where not reached; ``ne_METRIC``: over all rows of the pass.
- ``slice_losses`` where the table has slices: the mean log loss of each slice of a window, float32, slices innermost,
  NaN where not reached or without rows.
- ``flops`` (forward, a row, dense part), ``rows``, ``seconds``, ``compile_seconds``, ``at`` (seconds from the start of
  its session), ``failed`` (empty, or the reason).

The schema's metadata has ``autorank.format``, ``autorank.space`` (YAML: `space_text`) and ``autorank.about`` (JSON),
with a hash of all values (``content_sha256``), which reading verifies.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autorank.ledger.strict_json import dumps
from autorank.recorded.space_text import space_from, space_text
from autorank.recorded.table import PLAIN, RecordedTable
from autorank.space.space import Space

FORMAT = "autorank recorded table, 1"
SLICES = "slice_losses"
RECORD = "record it: python -m experiments.record_table"
# Entries of ``autorank.about`` that every reader needs.
NEEDED = (
    "metrics",
    "num_windows",
    "num_rows",
    "space_fingerprint",
    "plan",
    "sessions",
    "runs",
    "content_sha256",
)


def write_table(path: Path, table: RecordedTable) -> None:
    """Writes the file; a crash leaves the former one, or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, t = table.curves.shape[:2]
    arrays: dict[str, Any] = {
        name: pa.array(table.failed if name == "failed" else table.columns[name], kind)
        for name, kind in PLAIN.items()
    }
    choices = pa.array(table.configs.astype(np.int16).reshape(-1))
    arrays["choices"] = pa.FixedSizeListArray.from_arrays(choices, table.space.num_decisions)
    for q, metric in enumerate(table.metrics):
        values = pa.array(np.ascontiguousarray(table.curves[:, :, q]).reshape(-1))
        arrays[f"curve_{metric}"] = pa.FixedSizeListArray.from_arrays(values, t)
        arrays[f"ne_{metric}"] = pa.array(table.ne[:, q])
    if table.slices is not None:
        values = pa.array(np.ascontiguousarray(table.slices).reshape(-1))
        arrays[SLICES] = pa.FixedSizeListArray.from_arrays(values, t * table.slices.shape[2])
    metadata = {
        "autorank.format": FORMAT,
        "autorank.space": space_text(table.space),
        "autorank.about": dumps(table.about | {"runs": n, "content_sha256": table.digest()}),
    }
    made = pa.table(arrays).replace_schema_metadata(metadata)
    how: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 9,
        "use_dictionary": ["failed", "choices.list.element", "repeat", "session", "rows"],
        "use_byte_stream_split": [
            f"{name}.list.element" for name in arrays if name.startswith(("curve_", SLICES))
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        pq.write_table(made, stream, **how)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def read_table(path: Path) -> RecordedTable:
    """The table of a file, checked.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no such table; the message names the file, the column and what is wrong.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; {RECORD}")
    try:
        read = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is not a whole Parquet file ({error}); fetch it again, or {RECORD}"
        ) from error
    pairs = (read.schema.metadata or {}).items()
    known = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in pairs}
    if known.get("autorank.format") != FORMAT:
        found = known.get("autorank.format", "none")
        raise ValueError(
            f"{path}: the metadata's autorank.format is {found!r}, not {FORMAT!r}; name a table that "
            "experiments.record_table wrote"
        )
    space = space_from(known.get("autorank.space", ""), f"{path}, metadata autorank.space")
    about = _about(path, known.get("autorank.about", ""), space)
    _check_columns(path, read.schema, space, about)
    for name in read.column_names:
        if read[name].null_count:
            raise ValueError(f"{path}, column {name}: {read[name].null_count} values are missing")
    if read.num_rows != about["runs"]:
        raise ValueError(f"{path} has {read.num_rows} rows, not the {about['runs']} that it names")
    table = _table(read, space, about)
    _check_rows(path, table)
    if about["content_sha256"] != table.digest():
        raise ValueError(
            f"{path}: its values are not those that were written; fetch it again, or {RECORD}"
        )
    return table


def _about(path: Path, text: str, space: Space) -> dict[str, Any]:
    """The metadata's JSON, with the entries that every reader needs."""
    try:
        about = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}, metadata autorank.about: no JSON ({error})") from error
    for key in NEEDED:
        if key not in about:
            raise ValueError(f"{path}, metadata autorank.about: {key} is missing")
    if about["space_fingerprint"] != space.fingerprint():
        raise ValueError(
            f"{path}, metadata autorank.space: the space was changed, its fingerprint is not that of the runs"
        )
    return about


def _check_columns(path: Path, schema: Any, space: Space, about: Mapping[str, Any]) -> None:
    """Refuses a file without exactly our columns and types."""
    t = about["num_windows"]
    wanted = dict(PLAIN) | {"choices": f"fixed_size_list<element: int16>[{space.num_decisions}]"}
    for metric in about["metrics"]:
        wanted |= {
            f"curve_{metric}": f"fixed_size_list<element: float>[{t}]",
            f"ne_{metric}": "double",
        }
    if slices := about.get("slices"):
        wanted[SLICES] = f"fixed_size_list<element: float>[{t * slices['count']}]"
    for name in schema.names:
        if name not in wanted:
            raise ValueError(f"{path}, column {name}: unknown; the columns are {', '.join(wanted)}")
    for name, kind in wanted.items():
        if name not in schema.names:
            raise ValueError(f"{path}: the column {name} is missing")
        found = str(schema.field(name).type).replace("item:", "element:")
        if found != kind:
            raise ValueError(f"{path}, column {name}: its type is {found}, not {kind}")


def _table(read: Any, space: Space, about: dict[str, Any]) -> RecordedTable:
    """The arrays of a file whose columns are known to be right."""
    n, t, k = read.num_rows, about["num_windows"], space.num_decisions

    def numbers(name: str) -> np.ndarray:
        chunks = read[name].combine_chunks()
        lists = name.startswith(("choices", "curve_", SLICES))
        return (chunks.flatten() if lists else chunks).to_numpy()

    metrics = about["metrics"]
    return RecordedTable(
        space,
        about,
        numbers("choices").reshape(n, k).astype(np.int32),
        np.stack([numbers(f"curve_{m}").reshape(n, t) for m in metrics], axis=2),
        np.stack([numbers(f"ne_{m}") for m in metrics], axis=1),
        tuple(read["failed"].to_pylist()),
        {name: numbers(name) for name in PLAIN if name != "failed"},
        numbers(SLICES).reshape(n, t, -1) if about.get("slices") else None,
    )


def _check_rows(path: Path, table: RecordedTable) -> None:
    """Refuses runs that contradict each other, the space or the plan."""
    try:
        table.space.validate(table.configs)
    except ValueError as error:
        raise ValueError(f"{path}, column choices: {error}") from error
    number, repeat = table.columns["number"], table.columns["repeat"]
    keys = np.stack([number, repeat], axis=1)
    if len(np.unique(keys, axis=0)) < len(keys):
        raise ValueError(f"{path}, columns number and repeat: a run is there twice")
    if not np.array_equal(keys, keys[np.lexsort((repeat, number))]):
        raise ValueError(f"{path}, columns number and repeat: the runs are not in their order")
    same = np.flatnonzero(number[1:] == number[:-1]) + 1
    if (table.configs[same] != table.configs[same - 1]).any():
        raise ValueError(f"{path}, column choices: the seeds of one number differ in it")
    firsts = table.configs[np.flatnonzero(repeat == 0)]
    if len(np.unique(firsts, axis=0)) < len(firsts):
        raise ValueError(f"{path}, column choices: two numbers have the same configuration")
    flops = table.columns["flops"]
    if not (np.isfinite(flops) & (flops > 0)).all():
        raise ValueError(f"{path}, column flops: a value is not a number above 0")
    session = table.columns["session"]
    if len(session) and not (0 <= session.min() and session.max() < len(table.about["sessions"])):
        raise ValueError(f"{path}, column session: a value names none of the metadata's sessions")
    for q, metric in enumerate(table.metrics):
        empty = ~table.lost & ~np.isfinite(table.curves[:, :, q]).any(axis=1)
        if empty.any() and table.measurable[:, q].any():
            row = int(np.flatnonzero(empty)[0])
            raise ValueError(
                f"{path}, column curve_{metric}: row {row} has no finite window and did not fail"
            )
