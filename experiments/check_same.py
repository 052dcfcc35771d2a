# ruff: noqa: D103, E501
"""While code moves: three small searches give the ledgers that they gave before, bit for bit.

    python experiments/check_same.py record before.json    and, after the change,
    python experiments/check_same.py compare before.json

Clocks and speeds are left out; curves, proposals, seeds, predictions and fingerprints are in.
"""

import json
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CLOCKS = re.compile(
    r"second|per_s|speed|_at$|time|revision|host|wandb|executor|device|duration|path|folder|argv|versions|program|^why$|^disk_|^token$"
)
SMALL = [
    "experiment=toy", "data.num_rows=12000", "training.batch_size=100", "training.num_windows=20",
    "searcher.batch_size=3", "fidelity.num_pilots=4", "search.noise_seeds=2", "search.final_seeds=2",
    "search.finalists=1", "tracking.mode=disabled", "search.workers=1",
]  # fmt: skip
RUNS = {
    "autorank": ["search.trials=18", "fidelity=fixed", "searcher=autorank"],
    "paper": [
        "search.trials=12", "searcher=paper", "model.head=esmm", "searcher.steps=20", "searcher.samples=8",
        "predictor.members=2", "predictor.steps=10",
    ],
}  # fmt: skip
SWEEP = [
    "hydra/sweeper=autorank", "hydra.sweeper.trials=14", "hydra.sweeper.batch_size=2", "hydra.sweeper.searcher=autorank",
]  # fmt: skip


def program(arguments: list[str], where: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=where, capture_output=True, text=True, timeout=1200
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])


def without_clocks(value):
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in sorted(value.items()) if not CLOCKS.search(k)}
    if isinstance(value, list):
        return [without_clocks(v) for v in value]
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return without_clocks(json.loads(value))
        except ValueError:
            return value
    return value


def ledger_rows(path: Path) -> dict:
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        found = {}
        for table, order in (
            ("meta", "key"),
            ("records", "kind, key"),
            ("trials", "stage, round, position"),
        ):
            rows = [
                dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}")
            ]
            if table == "meta":
                rows = [row for row in rows if not CLOCKS.search(row["key"])]
            if table == "records":
                rows = [row for row in rows if not CLOCKS.search(row["kind"] + row["key"])]
                for row in rows:
                    row.pop("id")
            if table == "trials":  # format 1 of the ledger had no column for the rung
                rows = [{k: v for k, v in row.items() if (k, v) != ("rung", 0)} for row in rows]
            found[table] = without_clocks(rows)
        for row in found["meta"]:
            if row["key"] == "identity":
                row["value"].pop("format")
        return found


def everything() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, overrides in RUNS.items():
            program(
                [str(ROOT / "experiments/search.py"), *SMALL, *overrides, f"runs={folder}", f"name={name}",
                 f"data.folder={folder}/data"], ROOT,
            )  # fmt: skip
            found[name] = ledger_rows(Path(folder) / name / "trials.db")
        program([str(ROOT / "tests/sweeper/sweep_app/app.py"), "-m", *SWEEP, f"hydra.sweep.dir={folder}/sweep",
                 *SWEEP_SPACE], ROOT)  # fmt: skip
        (db,) = (Path(folder) / "sweep").rglob("*.db")
        found["sweep"] = ledger_rows(db)
        return json.loads(json.dumps(found))


SWEEP_SPACE = ["x=range(1,40)", "kind=choice(a,b,c)", "rate=tag(log,interval(1e-4,1))"]


def differences(old, new, where=""):
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key, "absent"), new.get(key, "absent"), f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{where}[{i}]")
    elif old != new:
        yield f"{where}: {str(old)[:100]} -> {str(new)[:100]}"


if __name__ == "__main__":
    verb, file = sys.argv[1], Path(sys.argv[2])
    if verb == "record":
        file.write_text(json.dumps(everything(), indent=0))
        raise SystemExit
    before: Any = without_clocks(json.loads(file.read_text()))
    for run in before.values():
        run["meta"] = [row for row in run["meta"] if not CLOCKS.search(row["key"])]
        for row in run["meta"]:
            if row["key"] == "identity":
                row["value"].pop("format", None)
    found = list(differences(before, everything()))
    print("\n".join(found[:50]) or "the same, bit for bit")
    raise SystemExit(bool(found))
