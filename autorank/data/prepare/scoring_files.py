"""The files of a model's folder that raw rows are read and encoded by: `encoders.json` and `reading.json`."""

import hashlib
import json
from pathlib import Path
from typing import Any

from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Schema
from autorank.data.prepare import encoders_file
from autorank.data.prepare.staging import write_atomically

READING, READING_FORMAT = "reading.json", 1


def save_scoring_files(dataset: Dataset, folder: Path) -> None:
    """Copies `encoders.json` of the data set into ``folder`` and writes `reading.json`: how its log was read.

    Raises:
        ValueError: the data set was not loaded from a folder, or that folder has been prepared again since.
    """
    if dataset.folder is None:
        raise ValueError("this data set has no folder; open it with store.load")
    path = dataset.folder / encoders_file.FILE
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != dataset.schema.sha256[encoders_file.FILE]:
        raise ValueError(
            f"{path} has changed since this data set was opened; its model needs the old one: "
            "train again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / encoders_file.FILE).write_bytes(content)
    reading = json.dumps(_reading(dataset.schema), indent=1, allow_nan=False)
    write_atomically(folder / READING, reading)


def load_reading(folder: Path) -> dict[str, Any] | None:
    """Reads `reading.json` from a model's folder; None if an older version saved the model.

    Raises:
        ValueError: an unsupported format.
    """
    path = folder / READING
    if not path.is_file():
        return None
    record = json.loads(path.read_text("utf-8"))
    if record.get("format") != READING_FORMAT:
        raise ValueError(
            f"{path}: format {record.get('format')!r}, this version reads {READING_FORMAT}; train the "
            "model with this version, or score with the one that saved it"
        )
    return record


def _reading(schema: Schema) -> dict[str, Any]:
    """How another file with rows of the same log is read, and what its unknown ids are compared with."""
    made_from = schema.notes["made_from"]
    return {
        "format": READING_FORMAT,
        "source": made_from["source"],
        "settings": made_from["source_settings"],
        "columns": made_from["columns"],
        "held_out_rows": schema.num_rows - schema.num_train,
        "unknown_share": schema.notes["unknown_share"]["test"],
    }
