"""What made some numbers: settings, versions, device and revision; and tidy tables with it beside them."""

import csv
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from autorank.base.code_revision import code_revision
from autorank.base.records import locations, plain
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps

PACKAGES = ("autorank", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")


def provenance() -> dict[str, Any]:
    """Versions, device and revision behind the numbers."""
    return {
        "versions": {"python": platform.python_version()}
        | {p: package_version(p) for p in PACKAGES},
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "git_revision": code_revision(),
        "finished_at": time.time(),
    }


def package_version(name: str) -> str:
    """The installed version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def shareable(config: Any) -> dict[str, Any]:
    """The settings of a program that reads a log, without where this machine keeps its files."""
    usual = type(config)()
    places = {name: place and Path(place).name for name, place in locations(config.data).items()}
    places["folder"] = usual.data.folder
    data = replace(config.data, **places)
    shown = plain(replace(config, data=data, runs=usual.runs))
    return shown | ({"results": usual.results} if hasattr(usual, "results") else {})


def write_rows(path: Path, rows: list[dict[str, Any]], made_by: Mapping[str, Any]) -> None:
    """A tidy CSV, and beside it (``.json``) what made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    write_atomically(path.with_suffix(".json"), dumps(made_by, indent=1))


def cell(value: Any) -> Any:
    """A CSV cell: empty for what is unknown, JSON for a list."""
    if isinstance(value, list):
        return dumps(value)
    return "" if isinstance(value, float) and math.isnan(value) else value
