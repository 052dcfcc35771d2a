"""The rules of a sweep: what may be proposed, how results are read, when it stops."""

from collections.abc import Sequence
from typing import NamedTuple

from autorank.ledger.trial import Trial

# A failure rate is taken over at least this many trials.
LEAST_EVIDENCE = 10


class SweepRules(NamedTuple):
    """What may be proposed and how results are read."""

    trials: int
    seed: int = 0
    maximize: bool = False
    max_failure_rate: float = 0.5
    # Weight of log(cost) in what is told, for searchers that do not weigh it themselves.
    alpha: float = 0.0
    # Times the baseline's cost; more expensive trials rank below all others.
    cost_cap: float | None = None
    baseline_first: bool = True
    # Proposals that the searcher makes at a time.
    batch_size: int = 8
    # Whether its proposals have roles by position (`ask_batch.rotated`).
    roles: bool = False
    # No searcher: every configuration of the space that has not been proposed yet, in order.
    in_order: bool = False


class SweepStopped(RuntimeError):
    """Too many trials fail; the message says what to do."""


def check_failures(trials: Sequence[Trial], limit: float, num_total: int) -> None:
    """Stops a sweep when the share of failed trials is above ``limit``.

    The share is taken over at least `LEAST_EVIDENCE` trials, or ``num_total`` if there will be fewer.

    Raises:
        SweepStopped: with the last reason.
    """
    ended = [t for t in trials if t.status != "proposed"]
    failed = [t for t in ended if t.status == "failed"]
    if len(failed) > limit * max(len(ended), min(LEAST_EVIDENCE, num_total)):
        raise SweepStopped(
            f"{len(failed)} of {len(ended)} trials failed, more than max_failure_rate={limit}; the last "
            f"one because: {failed[-1].reason}. Mend the job or narrow the space and start again in a new "
            f"folder, or raise max_failure_rate and start the same command again"
        )
