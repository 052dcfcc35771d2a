"""The page's sentences: the result, and how certain it is. A sentence is empty if its run lacks the numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from autorank.base.searched import NE, unit
from autorank.ledger.run_folder import Run, labelled, searched
from autorank.report.numbers import NONE, count, interval, known, number, ratio, signed
from autorank.report.summary import main_metric


class Headline(NamedTuple):
    """The result in words."""

    text: str
    tone: str = ""  # "good", "bad", or "" for neither


def headline(run: Run) -> Headline:
    """The result of the run, or its best label so far."""
    gain = run.summary.get("ne_gain_percent") or {}
    if not known(gain.get("mean")):
        best = min((t.quality or 0.0 for t in labelled(run)), default=None)
        if best is None:
            return Headline("No trial has a label yet.")
        return Headline(
            f"No final result yet. Best label so far: {signed(best)} "
            f"{unit(run.summary.get('measure') or NE)} (not a test result)."
        )
    certain = known(gain.get("low")) and known(gain.get("high"))
    better, worse = certain and gain["high"] < 0, certain and gain["low"] > 0
    text = (
        "The winner beats the baseline"
        if better
        else "The winner is worse than the baseline"
        if worse
        else "The winner cannot be distinguished from the baseline"
    )
    text += f": NE {signed(gain['mean'])}%"
    if certain:
        rows = interval(gain, "rows_low", "rows_high")
        over_rows = f"over test rows {rows}, " if rows != NONE else ""
        text += (
            f" (95% interval over seeds {interval(gain)}, {over_rows}p {number(gain.get('p'), 2)})"
        )
    text += f" on {run.summary.get('ne_gain_on') or 'validation'}"
    flops = (run.summary.get("winner") or {}).get("flops_ratio")
    text += f", at {flops:.2g}x the FLOPs." if known(flops) else "."
    text += _gain_at_equal_ne(run.summary)
    return Headline(text, "good" if better else "bad" if worse else "")


def _gain_at_equal_ne(summary: Mapping[str, Any]) -> str:
    flops, qps = summary.get("flops_gain_percent"), summary.get("qps_gain_percent")
    if not known(flops):
        return ""
    speed = f", {signed(qps, 0)}% rows/s" if known(qps) else ""
    return f" At equal NE: {signed(flops, 0)}% FLOPs{speed}."


def state_of(run: Run) -> str:
    """Whether the run is finished, else how far it is."""
    if run.summary.get("status") == "finished":
        trials, failed = run.summary.get("num_trials"), run.summary.get("num_failed")
        return f"finished: {count(trials)} trials, {count(failed)} failed"
    trials = searched(run)
    done = sum(t.status != "proposed" for t in trials)
    total = planned_trials(run.config) or len(trials)
    return f"interrupted after {done} of {total} trials; run the same command to continue"


def planned_trials(config: str) -> int | None:
    """``search.trials`` of the resolved settings (YAML); None if they do not have it."""
    import yaml

    try:
        value = (yaml.safe_load(config) or {})["search"]["trials"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


def verdict_sentences(summary: Mapping[str, Any]) -> list[str]:
    """What was found at equal NE, what the run could have shown, what luck would give, and the exported model's NE."""
    sentences = (
        measure_sentence,
        equal_ne_sentence,
        power_sentence,
        luck_sentence,
        export_sentence,
    )
    return [text for text in (sentence(summary) for sentence in sentences) if text]


def measure_sentence(summary: Mapping[str, Any]) -> str:
    """By what the search went, and its gain in that, where it was not NE."""
    measure = summary.get("measure") or NE
    if measure == NE:
        return ""
    metric, words = main_metric(summary), unit(measure)
    text = f"The search went by {measure} of {summary.get('metric')}: labels and validation gains are {words}."
    winner = ((summary.get("winner") or {}).get("measure_gains") or {}).get(metric) or {}
    found = winner.get(measure) or {}
    if known(found.get("mean")):
        text += (
            f" The winner's held-out gain in it: {signed(found['mean'])} {words} "
            f"(95% interval over seeds {interval(found)}). NE stands beside it."
        )
    return text


def equal_ne_sentence(summary: Mapping[str, Any]) -> str:
    """The cheapest model at equal NE with the margin, or the nearest miss."""
    rule = summary.get("equal_ne") or {}
    margin = rule.get("margin")
    if not known(margin):
        return ""
    within = f"worse by less than {margin:g}% with {100 * rule.get('level', 0.95):g}% confidence"
    cheapest_first = sorted(rule.get("tests") or [], key=lambda t: t["flops_ratio"])
    found = next((t for t in cheapest_first if t.get("passed")), None)
    if found:
        return f"At equal NE ({within}): {_test_result(found)}"
    miss = rule.get("nearest_miss")
    if not miss:
        return f"No model at equal NE ({within}): no finalist is cheaper than the baseline."
    nearest = f"Nearest: finalist {miss['finalist']} at {_test_result(miss)}"
    return f"No model was shown to be at equal NE ({within}). {nearest}"


def _test_result(test: Mapping[str, Any]) -> str:
    return (
        f"{ratio(test['flops_ratio'])} the FLOPs, validation gain {signed(test['mean'])}%, upper bound "
        f"{signed(test['bound'])}%."
    )


def power_sentence(summary: Mapping[str, Any]) -> str:
    """The smallest gain that the run could have shown."""
    verdict = summary.get("verdict") or {}
    least, seeds = verdict.get("least_gain_percent"), verdict.get("num_seeds")
    if not known(least):
        if seeds == 1:
            return "One fresh seed cannot show any gain: set search.final_seeds=5 or auto."
        return ""
    return (
        f"The smallest gain that these {seeds} seeds could have shown is {number(least, 2)}% NE (detected in "
        f"{100 * verdict.get('power', 0.8):g}% of such runs; paired t-test, two-sided 5%)."
    )


def luck_sentence(summary: Mapping[str, Any]) -> str:
    """The best label beside what luck alone would give."""
    luck = summary.get("label_luck") or {}
    if not known(luck.get("best_label")) or not known(luck.get("expected_best_copy")):
        return ""
    text = (
        f"Best of {luck['num_labels']} labels: {signed(luck['best_label'])}%. The luckiest of as many copies of the "
        f"baseline would reach {signed(luck['expected_best_copy'])}% on average by seed noise alone"
    )
    if known(luck.get("luckiest_copy")):
        text += f", and {signed(luck['luckiest_copy'])}% or more in one search of twenty"
    return text + "."


def export_sentence(summary: Mapping[str, Any]) -> str:
    """The exported model's own NE on the held-out rows."""
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
        text += "; unlike the models in the table, it does not continue to learn while it is scored"
    return text + "."
