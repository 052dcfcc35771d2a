"""Fidelity rules: how much of the log a trial sees. Each has its own settings record in the registry `FIDELITIES`."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from autorank.base.records import require_range
from autorank.base.registry import Registry
from autorank.fidelity.fidelity import (
    Fidelity,
    left_to_the_searcher,
    rising,
    single_rung,
    successive_halving,
)
from autorank.fidelity.pilots import MIN_PILOTS, from_pilots


class Choose(Protocol):
    """Chooses the fidelity of a search; called once."""

    def __call__(
        self, curves: np.ndarray, where: np.ndarray | None = None, /
    ) -> tuple[Fidelity, dict[str, Any]]:
        """The fidelity, and the record of the reasons for the report.

        Args:
            curves: gain curves ``[p, t]`` of the pilots, of which there may be none.
            where: windows bool ``[t]`` that can be measured; None for all.
        """
        ...


class Restore(Protocol):
    """Restores the fidelity of a search that is resumed."""

    def __call__(self, record: dict[str, Any], /) -> Fidelity:
        """The fidelity that `Choose` has returned with this record."""
        ...


class FidelityRule(NamedTuple):
    """How a search chooses its `Fidelity`, and how the curve label of a pilot is taken."""

    tail: float  # share of the windows reached that a curve label is the mean of
    choose: Choose
    restore: Restore | None = None  # None: `choose` decides the same again
    rungs: tuple[float, ...] = ()  # where they are set and not chosen


@dataclass(frozen=True)
class FidelityConfig:
    """The settings that all rules share; each rule extends them with its own."""

    kind: str = ""
    # Trained on the whole log before anything else: half are random, half near the baseline.
    num_pilots: int = 0
    tail: float = 0.25  # share of the windows reached that a curve label is the mean of

    def __post_init__(self):
        FIDELITIES.require_own_name(self)
        require_range("fidelity.num_pilots", self.num_pilots, 0, 1_000_000)
        require_range("fidelity.tail", self.tail, 0.01, 1.0)


class MakeFidelity(Protocol):
    """A rule's factory."""

    def __call__(self, settings: Any, seed: int, /) -> FidelityRule:
        """The rule that the settings, of the type registered with it, describe; ``seed`` is the seed of the search."""
        ...


FIDELITIES: Registry[MakeFidelity] = Registry("fidelity", field="kind")


@dataclass(frozen=True)
class PilotsConfig(FidelityConfig):
    """How the fraction is chosen from the pilots."""

    kind: str = "pilots"
    num_pilots: int = 20
    # Candidates. Those above 1 - tail share windows with the final curve label and are not considered.
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    trend: bool = True  # extrapolate along the tail's slope
    tau_floor: float = 0.75  # smallest acceptable tau-b with the final order
    slack: float = 0.05  # how far below the plateau the lower bound may lie

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "fractions", rising("fidelity.fractions", self.fractions))
        if self.num_pilots < MIN_PILOTS:
            raise ValueError(
                f"fidelity=pilots needs fidelity.num_pilots of at least {MIN_PILOTS}, not "
                f"{self.num_pilots}; or write fidelity=full"
            )


@dataclass(frozen=True)
class FixedConfig(FidelityConfig):
    """The share of the log that every trial sees."""

    kind: str = "fixed"
    fraction: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        require_range("fidelity.fraction", self.fraction, 0.01, 1.0)


@dataclass(frozen=True)
class FullConfig(FidelityConfig):
    """The whole log needs no further settings."""

    kind: str = "full"


@dataclass(frozen=True)
class HalvingConfig(FidelityConfig):
    """The rungs that trials are promoted through."""

    kind: str = "halving"
    rungs: tuple[float, ...] = (0.2, 0.5, 1.0)  # fractions of the log
    eta: float = 3.0  # one in eta is promoted

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "rungs", rising("fidelity.rungs", self.rungs))
        if not self.eta > 1:
            raise ValueError(f"fidelity.eta={self.eta} must be above 1; 3 promotes the best third")


@dataclass(frozen=True)
class FreezeThawConfig(FidelityConfig):
    """The rungs that the searcher may take a run to, and what it may spend."""

    kind: str = "freeze_thaw"
    rungs: tuple[float, ...] = (0.2, 0.5, 1.0)  # fractions of the log
    # Whole runs that the rounds may cost: they end when these are spent, or when search.trials configurations have
    # begun and none goes on.
    budget: float = 40.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "rungs", rising("fidelity.rungs", self.rungs))
        if self.rungs[-1] != 1.0 or len(self.rungs) < 2:
            raise ValueError(
                f"fidelity.rungs={list(self.rungs)} must rise to 1.0, the whole log, over at least two rungs; write "
                "for example [0.2, 0.5, 1.0]"
            )
        require_range("fidelity.budget", self.budget, 1.0, 1e6)


@FIDELITIES.register("pilots", PilotsConfig)
def pilots(settings: PilotsConfig, seed: int) -> FidelityRule:
    """Trains pilots on the whole log; later trials see the smallest fraction that keeps the order of the pilots."""

    def choose(
        curves: np.ndarray, where: np.ndarray | None = None
    ) -> tuple[Fidelity, dict[str, Any]]:
        return from_pilots(
            curves,
            settings.fractions,
            tail=settings.tail,
            trend=settings.trend,
            tau_floor=settings.tau_floor,
            slack=settings.slack,
            seed=seed,
            where=where,
        )

    def restore(record: dict[str, Any]) -> Fidelity:
        fraction, dx = record["chosen_fraction"], record["chosen_dx"]
        return single_rung(fraction, tail=settings.tail, dx=dx)

    return FidelityRule(settings.tail, choose, restore)


@FIDELITIES.register("fixed", FixedConfig)
def fixed(settings: FixedConfig, seed: int) -> FidelityRule:
    """Every trial sees a given fraction of the log."""
    return _as_set(settings, single_rung(settings.fraction, tail=settings.tail))


@FIDELITIES.register("full", FullConfig)
def full(settings: FullConfig, seed: int) -> FidelityRule:
    """Every trial sees the whole log."""
    return _as_set(settings, single_rung(1.0, tail=settings.tail))


@FIDELITIES.register("halving", HalvingConfig)
def halving(settings: HalvingConfig, seed: int) -> FidelityRule:
    """Successive halving within each round: of 20 trials, 6 are promoted, and then 2 of these.

    The searcher learns from the first rung, which every trial reaches. Front and finalists are those of the last rung.
    """
    made = successive_halving(settings.rungs, eta=settings.eta, tail=settings.tail)
    return _as_set(settings, made)


@FIDELITIES.register("freeze_thaw", FreezeThawConfig)
def freeze_thaw(settings: FreezeThawConfig, seed: int) -> FidelityRule:
    """The searcher decides which running trial goes on and which new one starts: for training over several epochs.

    Its models see the labels of all rungs. Front and finalists are those of the last rung. In one pass over a log it
    was worse than whole runs of the same cost (docs/studies.md, thaw-log).
    """
    made = left_to_the_searcher(settings.rungs, settings.budget, tail=settings.tail)
    return _as_set(settings, made)


def _as_set(settings: FidelityConfig, made: Fidelity) -> FidelityRule:
    """The rule whose fidelity is set in advance, whatever the pilots show."""

    def choose(
        curves: np.ndarray, where: np.ndarray | None = None
    ) -> tuple[Fidelity, dict[str, Any]]:
        reason = f"set by fidelity.kind={settings.kind}"
        return made, {"chosen_fraction": made.rungs[0], "chosen_dx": 0.0, "reason": reason}

    return FidelityRule(settings.tail, choose, rungs=made.rungs)
