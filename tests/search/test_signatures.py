"""Each failure signature fires where it should and stays silent where it should not."""

from autorank.ledger.trial import Trial
from autorank.search.failure_signs import find_signs
from autorank.search.meter import Event
from autorank.search.progress import Progress, duration


def trial(status: str) -> Trial:
    return Trial(1, "round", 0, 0, (0,), 0, 0.5, None, status, "why", None, None, None, 0.0, None)


def policy(early: float, distinct: float) -> dict:
    curve = [1.0] + [early] * 9
    return {"round": 2, "entropy": [[curve]], "distinct": [distinct]}


HEALTHY = {"train_tau": 0.9, "heldout_tau": 0.7, "rounds": []}


def names(*arguments) -> list[str]:
    return [w.signature for w in find_signs(*arguments)]


def test_a_healthy_search_has_no_warning():
    rising = {"predicted": list(range(6)), "true": list(range(6))}
    diagnosis = HEALTHY | {"rounds": [rising, rising]}
    assert names([trial("finished")] * 10, [policy(0.5, 0.2)], diagnosis) == []
    assert names([], [], {}) == []


def test_each_signature_fires_alone():
    fine = [trial("finished")] * 10
    assert names(fine[:7] + [trial("failed")] * 3, [], HEALTHY) == ["diverged trials"]
    overfit = HEALTHY | {"train_tau": 0.95, "heldout_tau": 0.1}
    assert names(fine, [], overfit) == ["predictor overfit"]
    falling = {"predicted": list(range(6)), "true": list(range(6, 0, -1))}
    broken = HEALTHY | {"rounds": [falling] * 4}
    assert names(fine, [], broken) == ["predicted and true order decorrelate"]
    assert names(fine, [policy(0.01, 0.2)], HEALTHY) == ["policy collapse"]
    assert names(fine, [policy(0.5, 0.0001)], HEALTHY) == ["policy collapse"]
    nothing_yet = {"round": 0, "entropy": [[[None] * 10]], "distinct": [None]}
    assert names(fine, [nothing_yet], HEALTHY) == []


def test_progress_line_says_what_counts():
    progress = Progress()
    progress(Event("pilot", "", 0.0, 0, 100, 0, 0, None))
    line = progress.line(Event("round", "", 0.25, 25, 100, 1, 50_000, -0.12), 10.0)
    for words in ("25/100 trials", "1 failed", "5,000 rows/s", "-0.120%", "30s left"):
        assert words in line
    assert duration(75.0) == "1m15s" and duration(7200.0) == "2h00m"
