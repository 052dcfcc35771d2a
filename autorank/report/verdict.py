"""The report's words and tables on how sure the result is; empty for runs of earlier versions."""

from collections.abc import Mapping
from typing import Any

from autorank.ledger.run_folder import Run
from autorank.report.tables import (
    NONE,
    interval,
    known,
    main_metric,
    number,
    ratio_text,
    signed,
    table,
)

NAMES = {"winner": "winner", "equal_cost": "equal cost", "equal_ne": "equal NE"}


def equal_ne_sentence(summary: Mapping[str, Any]) -> str:
    """What was found at equal NE, with the margin; or the nearest miss."""
    rule = summary.get("equal_ne") or {}
    margin = rule.get("margin")
    if not known(margin):
        return ""
    within = f"worse by less than {margin:g}% with {100 * rule.get('level', 0.95):g}% confidence"
    found = next((t for t in _cheapest_first(rule) if t.get("passed")), None)
    if found:
        return (
            f"At equal NE ({within}): {ratio_text(found['flops_ratio'])} the FLOPs, validation gain "
            f"{signed(found['mean'])}%, upper bound {signed(found['bound'])}%."
        )
    miss = rule.get("nearest_miss")
    if not miss:
        return f"No model at equal NE ({within}): no finalist is cheaper than the baseline."
    return (
        f"No model was shown to be at equal NE ({within}). Nearest: finalist {miss['finalist']} at "
        f"{ratio_text(miss['flops_ratio'])} the FLOPs, validation gain {signed(miss['mean'])}%, upper bound "
        f"{signed(miss['bound'])}%."
    )


def export_sentence(summary: Mapping[str, Any]) -> str:
    """What the exported model itself does on the held-out rows."""
    exported = summary.get("exported") or {}
    ne = [
        f"{metric} {value:.5f}"
        for metric, value in (exported.get("ne") or {}).items()
        if known(value)
    ]
    if not ne:
        return ""
    text = f"The exported model (winner, seed {exported['seed']}) has held-out NE {', '.join(ne)}"
    if exported.get("held_out") == "progressive":
        text += "; it does not go on learning while it is scored, as the models in the table do"
    return text + "."


def _cheapest_first(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(rule.get("tests") or [], key=lambda t: t["flops_ratio"])


def power_sentence(summary: Mapping[str, Any]) -> str:
    """The least gain that the run could have shown."""
    verdict = summary.get("verdict") or {}
    least, seeds = verdict.get("least_gain_percent"), verdict.get("num_seeds")
    if not known(least):
        if seeds == 1:
            return "With one seed of the verdict no gain can be shown: write search.final_seeds=5 or auto."
        return ""
    return (
        f"The least gain that these {seeds} seeds could have shown is {number(least, 2)}% NE (found in "
        f"{100 * verdict.get('power', 0.8):g}% of such runs; paired t-test, two-sided 5%)."
    )


def luck_sentence(summary: Mapping[str, Any]) -> str:
    """The best label beside what luck alone would give."""
    luck = summary.get("label_luck") or {}
    if not known(luck.get("best_label")) or not known(luck.get("expected_best_copy")):
        return ""
    text = (
        f"Best of {luck['num_labels']} labels: {signed(luck['best_label'])}%. The luckiest of as many copies of the "
        f"baseline would have {signed(luck['expected_best_copy'])}% on average by seed noise alone"
    )
    if known(luck.get("luckiest_copy")):
        text += f", and {signed(luck['luckiest_copy'])}% or more in one search of twenty"
    return text + "."


SENTENCES = (equal_ne_sentence, power_sentence, luck_sentence, export_sentence)


def verdict_sentences(run: Run) -> list[str]:
    """All of them that the run has values for."""
    summary = run.summary
    said = [say(summary) for say in SENTENCES]
    return [text for text in said if text]


def finalists_table(run: Run) -> str:
    """Each finalist from label to test."""
    metric = main_metric(run)
    rows = []
    for i, entry in enumerate(run.summary.get("finalists") or [], start=1):
        roles = ", ".join(NAMES.get(str(r), str(r)) for r in entry.get("roles") or [])
        if entry.get("failed"):
            roles = f"failed with a fresh seed: {entry['failed']}"
        chosen_by = entry.get("validation_gain_percent") or {}
        test = (entry.get("test") or {}).get(metric) or {}
        confirmed = entry.get("confirmed_gain_percent") or {}
        rows.append(
            (
                "changed" if entry.get("roles") else "failed" if entry.get("failed") else "",
                (
                    f"{i} (trial {entry.get('trial')})",
                    ratio_text(entry.get("flops_ratio")),
                    signed(entry.get("label")),
                    signed(entry.get("label_without_luck")),
                    _with_interval(chosen_by),
                    _with_interval(confirmed),
                    _with_interval(test),
                    interval(test, "rows_low", "rows_high"),
                    roles or NONE,
                ),
            )
        )
    choice, final = run.summary.get("choice_seeds") or [], run.summary.get("seeds") or []
    head = (
        "finalist",
        "FLOPs",
        "label",
        "label without luck",
        f"validation, {len(choice)} choosing seeds",
        f"validation, {len(final)} fresh seeds",
        f"test {metric}, choosing seeds",
        "test, 95% over rows",
        "chosen as",
    )
    return table(head, rows)


FINALISTS_NOTE = (
    "NE gain in percent against the baseline, lower is better; [95% interval over seeds]. The label is one run with "
    "the search's own seed, the best of many: its luck stays behind. Without luck: drawn towards the median label by "
    "the share of the labels' variance that is seed noise. The choosing seeds are fresh, but picked the best of these "
    "finalists: the chosen models' result is that of seeds fresh again, above and in the middle column. Scoring all "
    "finalists on the held-out rows changes no choice: those were made on validation alone."
)


def _with_interval(gain: Mapping[str, Any]) -> str:
    if not known(gain.get("mean")):
        return NONE
    both = known(gain.get("low")) and known(gain.get("high"))
    return signed(gain["mean"]) + (
        f" [{signed(gain['low'])}, {signed(gain['high'])}]" if both else ""
    )
