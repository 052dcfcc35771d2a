"""The result of a run in a few lines for the terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

from autorank.base.searched import NE, unit
from autorank.report.numbers import NONE, count, entropy, interval, number, seconds, signed
from autorank.report.sentences import verdict_sentences
from autorank.report.summary import main_metric

WIDTH = 98
ROLES = (
    ("baseline", "baseline"),
    ("winner", "winner"),
    ("winner_equal_cost", "best at equal cost"),
    ("winner_equal_ne", "cheapest at equal NE"),
)


def console_table(summary: Mapping[str, Any]) -> str:
    """The summary as text; "-" stands for what is unknown."""
    gain = summary.get("ne_gain_percent") or {}
    lines = [
        *_models(summary),
        "",
        f"NE gain {signed(gain.get('mean'))}% on {summary.get('ne_gain_on') or NONE}, "
        f"p {number(gain.get('p'), 2)}; 95%: seeds {interval(gain)}, rows {interval(gain, 'rows_low', 'rows_high')}",
        f"at equal NE: FLOPs {signed(summary.get('flops_gain_percent'), 1)}%, rows/s "
        f"{signed(summary.get('qps_gain_percent'), 1)}% (95% {interval(summary.get('qps_gain_interval'))})",
        f"seed noise {number(summary.get('seed_noise_percent'))} {unit(summary.get('measure') or NE)}",
    ]
    for text in (*_finalists(summary), *verdict_sentences(summary)):
        lines += textwrap.wrap(text, WIDTH)
    lines.append(
        f"{count(summary.get('num_trials'))} trials, {count(summary.get('num_failed'))} failed, "
        f"{count(summary.get('trained_examples'))} rows trained on, "
        f"{count(summary.get('num_compiles'))} compiles "
        f"({seconds(summary.get('compile_seconds'))}), "
        f"{seconds(summary.get('wall_seconds'))}"
    )
    for warning in summary.get("warnings") or []:
        lines.append(f"warning: {warning['signature']}: {warning['message']}; {warning['advice']}")
    return "\n".join(line.rstrip() for line in lines)


def _models(summary: Mapping[str, Any]) -> list[str]:
    rows = [("", "NE", "FLOPs", "rows/s")]
    for role, name in ROLES:
        model = summary.get(role) or {}
        values = (entropy(model.get("ne")), count(model.get("flops")), count(model.get("qps")))
        rows.append((name, *values))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def _finalists(summary: Mapping[str, Any]) -> list[str]:
    """Each finalist's gain from label to test."""
    metric = main_metric(summary)
    lines = []
    for i, entry in enumerate(summary.get("finalists") or [], start=1):
        steps = {
            "label": entry.get("label"),
            "without luck": entry.get("label_without_luck"),
            "choosing seeds": _mean(entry.get("validation_gain_percent")),
            "their test": _mean((entry.get("test") or {}).get(metric)),
            "fresh seeds": _mean(entry.get("confirmed_gain_percent")),
        }
        shown = [f"{name} {signed(v)}" for name, v in steps.items() if signed(v) != NONE]
        lines.append(f"finalist {i}: {', '.join(shown)}")
    return lines


def _mean(gain: Mapping[str, Any] | None) -> Any:
    return (gain or {}).get("mean")
