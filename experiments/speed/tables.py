"""The tables of docs/performance.md, made from experiments/results/bench_*.csv.

    python -m experiments.speed.tables            # writes them between the markers
    python -m experiments.speed.tables --check    # fails if they differ from the results

A table shows every ratio of a bench with its target, and the figures of ``WHOLE`` benches in full.
"""

import argparse
import importlib
import re

from experiments.machine import RESULTS, ROOT
from experiments.speed.figures import Target, Targets, read
from experiments.speed.harness import Bench, targets_of

PAGE = ROOT / "docs" / "performance.md"
NAMES = (
    "training",
    "predictor",
    "policy",
    "data",
    "search_speed",
    "population",
    "lanes",
    "equality",
    "profile",
    "sharded",
)
WHOLE = (
    "population",
    "lanes",
    "equality",
    "profile",
    "search_speed",
    "sharded",
)  # no ratios: every figure is shown


def targets(name: str) -> Targets:
    """The targets that a benchmark declares, by shape, variant and metric."""
    module = importlib.import_module(f"experiments.speed.{name}")
    found = dict(getattr(module, "BOUNDS", {}))
    for value in vars(module).values():
        if isinstance(value, Bench):
            found |= targets_of(value)
    return found


def verdict(target: Target | None, median: float) -> str:
    """The target and whether it is met."""
    if target is None:
        return ""
    return f"{target} {'met' if target.met(median) else '**short**'}"


def table(name: str) -> str:
    """One benchmark as Markdown; the last line says what measured it."""
    rows = read(RESULTS / f"bench_{name}.csv")
    if not rows:
        return "Not measured."
    declared = targets(name)
    lines = [
        "| shape | variant | metric | median [lowest, highest] | target |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row["unit"] != "x" and name not in WHOLE:
            continue
        found = declared.get((row["shape"], row["variant"], row["metric"]))
        spread = "" if row["repeats"] == "1" else f" [{row['low']}, {row['high']}]"
        lines.append(
            f"| {row['shape']} | {row['variant']} | {row['metric']} | {row['median']}{spread} {row['unit']} "
            f"| {verdict(found, float(row['median']))} |"
        )
    made = sorted({(r["device"], r["versions"], r["git revision"], r["repeats"]) for r in rows})
    revisions = sorted({m[2] for m in made})
    lines += [
        "",
        f"{', '.join(sorted({m[0] for m in made}))}; {'; '.join(sorted({m[1] for m in made}))}; revision "
        f"{', '.join(revisions)}; repeats {', '.join(sorted({m[3] for m in made}))}.",
    ]
    return "\n".join(lines)


def filled(text: str) -> str:
    """The page with its tables remade."""
    for name in NAMES:
        mark = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.S)
        if not mark.search(text):
            raise SystemExit(
                f"{PAGE.name} has no place for {name}: add <!-- {name}: begin --> and end"
            )
        made = table(name)
        text = mark.sub(lambda m, made=made: f"{m.group(1)}{made}\n{m.group(2)}", text)
    return text


def main() -> None:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = PAGE.read_text()
    new = filled(old)
    if check and new != old:
        raise SystemExit(
            f"{PAGE.name} is not made of the results: python -m experiments.speed.tables"
        )
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
