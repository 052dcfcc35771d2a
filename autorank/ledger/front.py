"""The Pareto front: what no other point beats on cost and quality together."""

from collections.abc import Iterable, Sequence

from autorank.ledger.trial import Trial


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points ``(cost, quality)`` that no other beats on both, cheapest first.

    Lower is better for both. Of equal points the first one counts.

    Examples:
        >>> pareto_front([(2.0, 0.1), (1.0, 0.5), (3.0, 0.1), (1.0, 0.7), (4.0, -0.2)])
        [1, 0, 4]
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area that points ``(cost, quality)`` dominate up to a reference; what is beyond it adds nothing.

    Examples:
        >>> hypervolume([(0.0, 3.0), (1.0, 1.0), (2.0, 2.0), (9.0, 0.0)], reference=(4.0, 4.0))
        10.0
    """
    dearest, worst = reference
    inside = [p for p in points if p[0] < dearest and p[1] < worst]
    steps = [inside[i] for i in pareto_front(inside)]
    ends = [*(cost for cost, _ in steps[1:]), dearest]
    return sum(
        ((end - cost) * (worst - q) for (cost, q), end in zip(steps, ends, strict=False)), 0.0
    )


def front_of(trials: Iterable[Trial]) -> list[Trial]:
    """The front of the trials that have a label and a cost, cheapest first."""
    known: list[Trial] = []
    points: list[tuple[float, float]] = []
    for trial in trials:
        if trial.quality is not None and trial.cost is not None:
            known.append(trial)
            points.append((trial.cost, trial.quality))
    return [known[i] for i in pareto_front(points)]
