"""Collects finished runs into experiments/results/searches.csv, finalists.csv beside it, and the README's table.

python -m experiments.collect runs/movielens runs/kuairand ...   add or replace these runs
python -m experiments.collect --check                            fail if the README differs from the CSV
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "experiments" / "results" / "searches.csv"
FINALISTS = CSV.with_name("finalists.csv")
README = ROOT / "README.md"
BEGIN, END = "<!-- searches: begin -->", "<!-- searches: end -->"
FIELDS: tuple[str, ...] = (
    "data", "metric", "trials", "seed", "seed_noise_percent", "role", "held_out_ne", "flops_ratio", "qps_ratio",
    "gain_percent", "low", "high", "p", "rows_low", "rows_high", "bayes_ne", "trained_examples", "wall_seconds",
    "num_compiles", "fidelity_fraction", "device", "jax", "git_revision",
    # From here on empty for runs of earlier versions.
    "num_seeds", "least_gain_percent", "label_percent", "validation_percent", "equal_ne_margin", "equal_ne_bound",
    "qps_low", "qps_high",
)  # fmt: skip
FINALIST_FIELDS: tuple[str, ...] = (
    "data", "metric", "finalist", "flops_ratio", "roles", "label", "label_without_luck",
    *(f"{step}_{value}" for step in ("choosing", "fresh", "test") for value in ("mean", "low", "high")),
    "test_rows_low", "test_rows_high", "failed",
)  # fmt: skip
ROLES = {
    "baseline": "baseline",
    "winner": "winner",
    "winner_equal_cost": "best at equal cost",
    "winner_equal_ne": "cheapest at equal NE",
}


def metric_of(summary: dict[str, Any]) -> str:
    """The searched metric, or the first where the search took the mean of several."""
    return summary["metric"] if summary["metric"] in summary["tasks"] else summary["tasks"][0]


def rows_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each model of a run's table; every number is the summary's.

    A run that found nothing at equal NE has a row without a held-out NE for its nearest miss.
    """
    metric, rule = metric_of(summary), summary.get("equal_ne") or {}
    bayes = ((summary["bayes_ne"] or {}).get("test") or {}).get(metric)
    labels = {tuple(f["choices"]): f["label"] for f in summary.get("finalists") or []}
    bounds = {tuple(t["choices"]): t["bound"] for t in rule.get("tests") or []}
    shared = {
        "data": summary["name"], "metric": metric, "trials": summary["num_trials"], "bayes_ne": bayes,
        "jax": summary["versions"]["jax"], "equal_ne_margin": rule.get("margin"),
        "least_gain_percent": (summary.get("verdict") or {}).get("least_gain_percent"),
        "num_seeds": len(summary["seeds"]) if rule else None,
    } | {
        k: summary[k]
        for k in (
            "seed", "seed_noise_percent", "trained_examples", "wall_seconds", "num_compiles", "fidelity_fraction",
            "device", "git_revision",
        )
    }  # fmt: skip
    rows = []
    for role in ROLES:
        model = summary[role]
        if model is None:
            miss = rule.get("nearest_miss") if role == "winner_equal_ne" else None
            if miss:
                rows.append(
                    shared
                    | {"role": role, "flops_ratio": miss["flops_ratio"], "equal_ne_bound": miss["bound"],
                       "validation_percent": miss["mean"], "label_percent": labels.get(tuple(miss["choices"]))}
                )  # fmt: skip
            continue
        gain = (model.get("test") or {}).get(metric) or {}
        base, ratio = summary["baseline"]["qps"], model.get("qps_ratio") or {}
        plain = model["qps"] / base if base and model["qps"] else None
        rows.append(
            shared
            | {
                "role": role, "held_out_ne": model["ne"], "flops_ratio": model["flops_ratio"],
                "qps_ratio": ratio.get("ratio") or plain, "qps_low": ratio.get("low"), "qps_high": ratio.get("high"),
                "gain_percent": gain.get("mean"), "label_percent": labels.get(tuple(model["choices"])),
                "equal_ne_bound": bounds.get(tuple(model["choices"])) if role == "winner_equal_ne" else None,
                "validation_percent": (model.get("validation_gain_percent") or {}).get("mean"),
            }
            | {k: gain.get(k) for k in ("low", "high", "p", "rows_low", "rows_high")}
        )  # fmt: skip
    return rows


def finalists_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each finalist: its gain in percent from label to test."""
    metric = metric_of(summary)
    rows = []
    for i, entry in enumerate(summary.get("finalists") or [], start=1):
        test = (entry["test"] or {}).get(metric) or {}
        steps = {
            "choosing": entry["validation_gain_percent"],
            "fresh": entry["confirmed_gain_percent"] or {},
            "test": test,
        }
        rows.append(
            {
                "data": summary["name"], "metric": metric, "finalist": i, "roles": " ".join(entry["roles"]),
                "test_rows_low": test.get("rows_low"), "test_rows_high": test.get("rows_high"),
            }
            | {k: entry[k] for k in ("flops_ratio", "label", "label_without_luck", "failed")}
            | {f"{step}_{k}": gain.get(k) for step, gain in steps.items() for k in ("mean", "low", "high")}
        )  # fmt: skip
    return rows


def interval(row: dict[str, str], low: str, high: str) -> str:
    """``[-0.1, +0.2]``, or a dash."""
    if not row.get(low) or not row.get(high):
        return "-"
    return f"[{float(row[low]):+.3f}, {float(row[high]):+.3f}]"


def steps_text(row: dict[str, str]) -> str:
    """``-0.106 -> +0.030 -> +0.060 %``; the test alone for runs of earlier versions."""
    steps = [row.get(k) for k in ("label_percent", "validation_percent", "gain_percent")]
    if not any(steps[:2]):
        steps = steps[2:]
    return " -> ".join(f"{float(v):+.3f}" if v else "-" for v in steps) + " %"


def role_text(row: dict[str, str]) -> str:
    """The model's role; at equal NE with the margin and bound behind it."""
    name = ROLES[row["role"]]
    if row["role"] != "winner_equal_ne":
        return name
    if not row.get("equal_ne_margin"):
        return f"{name} (an earlier version's rule)"
    margin = float(row["equal_ne_margin"])
    # One seed gives no bound.
    bound = f"{float(row['equal_ne_bound']):+.3f} %" if row["equal_ne_bound"] else "unknown"
    if row["held_out_ne"]:
        return f"{name} (bound {bound} < {margin:g} %)"
    return f"none at equal NE; nearest: bound {bound}, not below {margin:g} %"


def table(rows: list[dict[str, str]]) -> str:
    """The table as Markdown."""
    head = (
        "data (metric)", "model", "held-out NE", "label -> validation -> test gain", "95 % over seeds",
        "95 % over test rows", "FLOPs", "rows/s", "seed noise",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        gain = "reference" if row["role"] == "baseline" else steps_text(row)
        ne = f"{float(row['held_out_ne']):.5f}" if row["held_out_ne"] else "-"
        if row["bayes_ne"] and row["held_out_ne"]:
            ne += f" (best possible {float(row['bayes_ne']):.5f})"
        qps = f"{float(row['qps_ratio']):.2f}x" if row["qps_ratio"] else "-"
        if row.get("qps_low") and row["role"] != "baseline":
            qps += f" [{float(row['qps_low']):.2f}, {float(row['qps_high']):.2f}]"
        cells = (
            f"{row['data']} ({row['metric']})", role_text(row), ne, gain, interval(row, "low", "high"),
            interval(row, "rows_low", "rows_high"), f"{float(row['flops_ratio']):.2f}x", qps,
            f"{float(row['seed_noise_percent']):.3f} %",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read(path: Path = CSV) -> list[dict[str, str]]:
    """The rows of a CSV."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def grown(
    path: Path, fields: tuple[str, ...], new: list[dict[str, Any]], data: str
) -> list[dict[str, str]]:
    """Replaces the rows of one data set in the CSV and returns all rows by data set."""
    rows = [{k: r.get(k) or "" for k in fields} for r in read(path) if r["data"] != data]
    rows += [{k: "" if r.get(k) is None else str(r[k]) for k in fields} for r in new]
    rows.sort(key=lambda r: r["data"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def with_table(text: str, rows: list[dict[str, str]]) -> str:
    """The README with the table between its markers."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        fresh = with_table(README.read_text(), read()) == README.read_text()
        print(
            "README is up to date"
            if fresh
            else "README differs from the CSV: run python -m experiments.collect RUN ..."
        )
        return 0 if fresh else 1
    rows = read()
    for run in arguments.runs:
        summary = json.loads((run / "summary.json").read_text())
        rows = grown(CSV, FIELDS, rows_of(summary), summary["name"])
        grown(FINALISTS, FINALIST_FIELDS, finalists_of(summary), summary["name"])
    README.write_text(with_table(README.read_text(), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
