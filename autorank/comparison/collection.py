"""Finished searches in one table: a row for each model of a run, and what made it, beside the README's table.

The table has one run of each data set and searched metric. A run of other settings, of another seed or on other rows
replaces nothing unless that is asked for.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.comparison.collection_table import ROLES, title, with_table
from autorank.comparison.finding import LEDGER
from autorank.comparison.grouping import differing, text_of
from autorank.comparison.result import METRIC, SEED, Result
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps

MOST_DIFFERENCES = 6  # that a refusal lists
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


class Shelf(NamedTuple):
    """Where the collected numbers lie."""

    searches: Path  # CSV, a row for each model; what made the rows is beside it (``.json``)
    finalists: Path  # CSV
    page: Path  # with the table between the markers of `collection_table`

    @property
    def settings(self) -> Path:
        """Which settings the rows of each data set are of."""
        return self.searches.with_suffix(".json")


def collect(results: Sequence[Result], shelf: Shelf, replace: Sequence[str] = ()) -> list[str]:
    """Adds runs to the tables, or replaces those of the same settings; returns what was written, by name.

    Args:
        results: finished searches, read from their folders.
        shelf: the tables.
        replace: data sets whose rows may be of other settings.

    Raises:
        ValueError: rows of other settings would be replaced, or a run cannot be collected; nothing is written then.
    """
    named = by_data_set(results)
    known = json.loads(shelf.settings.read_text()) if shelf.settings.is_file() else {}
    present = {title(row["data"], row["metric"]) for row in read(shelf.searches)}
    for name, result in named.items():
        if name in present and result.data not in replace:
            refuse_other_settings(name, known.get(name), result, shelf)
    data = {result.data for result in results}
    unknown = set(replace) - data
    if unknown:
        raise ValueError(
            f"--replace {sorted(unknown)[0]}: no given run is of it; write one of {', '.join(sorted(data))}"
        )
    summaries = [result.summary for result in results]
    models = [row for summary in summaries for row in rows_of(summary)]
    finalists = [row for summary in summaries for row in finalists_of(summary)]
    rows = grown(shelf.searches, FIELDS, models, named)
    grown(shelf.finalists, FINALIST_FIELDS, finalists, named)
    known |= {name: made_by(result) for name, result in named.items()}
    write_atomically(shelf.settings, dumps(dict(sorted(known.items())), indent=1) + "\n")
    write_atomically(shelf.page, with_table(shelf.page.read_text(), rows))
    return list(named)


def by_data_set(results: Iterable[Result]) -> dict[str, Result]:
    """The runs by what they have in the table.

    Raises:
        ValueError: two are of the same data set and metric, or one is not a run's folder.
    """
    named: dict[str, Result] = {}
    for result in results:
        if not (result.folder / LEDGER).is_file():
            raise ValueError(
                f"{result.folder}: finished searches are collected from their folders; name the run's own"
            )
        name = title(result.data, metric_of(result.summary))
        if name in named:
            raise ValueError(
                f"{named[name].folder} and {result.folder} are both of {name}, which has one run in the table; "
                f"name one of them"
            )
        named[name] = result
    return named


def made_by(result: Result) -> dict[str, Any]:
    """What a run's rows depend on: settings by dotted key, and the rows of its log."""
    own = {SEED: result.seed, METRIC: result.metric, "data": result.fingerprint}
    return dict(sorted((result.settings | own).items()))


def refuse_other_settings(
    name: str, there: Mapping[str, Any] | None, new: Result, shelf: Shelf
) -> None:
    """Refuses to replace rows of other settings.

    Raises:
        ValueError: what differs, and what to write.
    """
    advice = f"write --replace {new.data} to put {new.folder} in their place, or leave it out"
    if there is None:
        raise ValueError(
            f"{shelf.searches.name} has {name}, and {shelf.settings.name} does not say of which settings; {advice}"
        )
    own = made_by(new)
    differ = differing([there, own])
    if differ:
        listed = [
            f"{k}={text_of(there, k)} there and {text_of(own, k)} here"
            for k in differ[:MOST_DIFFERENCES]
        ]
        more = len(differ) - len(listed)
        listed += [f"{more} more"] if more else []
        raise ValueError(
            f"{shelf.searches.name} has {name} of other settings ({'; '.join(listed)}); {advice}"
        )


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


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none without the file."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def grown(
    path: Path, fields: tuple[str, ...], new: list[dict[str, Any]], names: Iterable[str]
) -> list[dict[str, str]]:
    """Puts rows in the place of those of some data sets, and returns all rows by data set."""
    replaced = set(names)
    rows = [
        {k: r.get(k) or "" for k in fields}
        for r in read(path)
        if title(r["data"], r["metric"]) not in replaced
    ]
    rows += [{k: "" if r.get(k) is None else str(r[k]) for k in fields} for r in new]
    rows.sort(key=lambda r: r["data"])
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields)
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stream.getvalue())
    return rows


def up_to_date(shelf: Shelf) -> bool:
    """Whether the page has the table of the CSV."""
    text = shelf.page.read_text()
    return with_table(text, read(shelf.searches)) == text
