"""Collects finished runs into experiments/results/searches.csv and the README's table.

python experiments/collect.py runs/movielens runs/kuairand ...   add or replace these runs
python experiments/collect.py --check                            fail if the README differs from the CSV
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "experiments" / "results" / "searches.csv"
README = ROOT / "README.md"
BEGIN, END = "<!-- searches: begin -->", "<!-- searches: end -->"
FIELDS: tuple[str, ...] = (
    "data", "metric", "trials", "seed", "seed_noise_percent", "role", "held_out_ne", "flops_ratio", "qps_ratio",
    "gain_percent", "low", "high", "p", "rows_low", "rows_high", "bayes_ne", "trained_examples", "wall_seconds",
    "num_compiles", "fidelity_fraction", "device", "jax", "git_revision",
)  # fmt: skip
ROLES = {
    "baseline": "baseline",
    "winner": "winner",
    "winner_equal_cost": "best at equal cost",
    "winner_equal_ne": "cheapest at equal NE",
}


def rows_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each model of a run's table; every number is the summary's."""
    metric = summary["metric"] if summary["metric"] in summary["tasks"] else summary["tasks"][0]
    bayes = ((summary["bayes_ne"] or {}).get("test") or {}).get(metric)
    rows = []
    for role in ROLES:
        model = summary[role]
        if model is None:
            continue
        gain = (model.get("test") or {}).get(metric) or {}
        base = summary["baseline"]["qps"]
        rows.append(
            {
                "data": summary["name"], "metric": metric, "trials": summary["num_trials"], "seed": summary["seed"],
                "role": role, "held_out_ne": model["ne"], "flops_ratio": model["flops_ratio"],
                "qps_ratio": model["qps"] / base if base and model["qps"] else None,
                "gain_percent": gain.get("mean"), "bayes_ne": bayes, "jax": summary["versions"]["jax"],
            }
            | {k: gain.get(k) for k in ("low", "high", "p", "rows_low", "rows_high")}
            | {
                k: summary[k]
                for k in (
                    "seed_noise_percent", "trained_examples", "wall_seconds", "num_compiles", "fidelity_fraction",
                    "device", "git_revision",
                )
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """Markdown."""
    lines = [
        "| data (metric) | model | held-out NE | NE gain, 95 % interval over seeds | FLOPs | rows/s | seed noise |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gain = "reference" if row["role"] == "baseline" else "-"
        if row["gain_percent"]:
            gain = f"{float(row['gain_percent']):+.3f} %"
            if row["low"]:
                gain += f" [{float(row['low']):+.3f}, {float(row['high']):+.3f}]"
        ne = f"{float(row['held_out_ne']):.5f}" if row["held_out_ne"] else "-"
        if row["bayes_ne"]:
            ne += f" (best possible {float(row['bayes_ne']):.5f})"
        qps = f"{float(row['qps_ratio']):.2f}x" if row["qps_ratio"] else "-"
        lines.append(
            f"| {row['data']} ({row['metric']}) | {ROLES[row['role']]} | {ne} | {gain} | "
            f"{float(row['flops_ratio']):.2f}x | {qps} | {float(row['seed_noise_percent']):.3f} % |"
        )
    return "\n".join(lines)


def read() -> list[dict[str, str]]:
    """The CSV's rows."""
    if not CSV.exists():
        return []
    with CSV.open(newline="") as stream:
        return list(csv.DictReader(stream))


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
            else "README differs from the CSV: run experiments/collect.py"
        )
        return 0 if fresh else 1
    rows = read()
    for run in arguments.runs:
        new = rows_of(json.loads((run / "summary.json").read_text()))
        rows = [r for r in rows if r["data"] != new[0]["data"]]
        rows += [{k: "" if r[k] is None else str(r[k]) for k in FIELDS} for r in new]
    rows.sort(key=lambda r: r["data"])
    CSV.parent.mkdir(parents=True, exist_ok=True)
    with CSV.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    README.write_text(with_table(README.read_text(), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
