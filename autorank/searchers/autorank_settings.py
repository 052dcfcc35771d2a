"""Settings of the searcher `autorank`."""

from dataclasses import dataclass

from autorank.base.records import as_tuples, later, require, require_range
from autorank.searchers.acquisition import AcquisitionSettings
from autorank.searchers.base import SearcherConfig, require_alphas
from autorank.searchers.candidates import CandidateSettings
from autorank.searchers.climbing import ClimbSettings
from autorank.surrogates.gaussian_surrogate import GaussianSettings
from autorank.surrogates.warping import WARPS


@dataclass(frozen=True)
class AutorankConfig(
    GaussianSettings, CandidateSettings, ClimbSettings, AcquisitionSettings, SearcherConfig
):
    """Bayesian optimisation; defaults that are not the literature's were chosen on the tables of docs/results.md."""

    name: str = "autorank"
    # Trials of a Latin hypercube before the model is trusted; trials told from elsewhere (pilots) count.
    initial: int = 10
    # Of an earlier search (search.warm_start): median of the prior on the variance of the factor by which its results
    # count, and standard deviation of the variance's logarithm.
    warm_median: float = later(0.5)
    warm_sd: float = later(2.0)

    def __post_init__(self):
        super().__post_init__()
        as_tuples(self, "warps")
        for key in ("alphas", "starts"):
            object.__setattr__(self, key, tuple(float(a) for a in getattr(self, key)))
        require_alphas(self.alphas)
        if not self.warps or not set(self.warps) <= set(WARPS):
            raise ValueError(
                f"searcher.warps={list(self.warps)}: write one or more of {', '.join(WARPS)}"
            )
        if not self.starts:
            raise ValueError(
                "searcher.starts=[] leaves nothing to fit; write at least [0.0], the usual length scales"
            )
        require("searcher.failures", self.failures, ("worst", "nothing"))
        for key, least in {
            "initial": 0,
            "climb_steps": 0,
            "fit_steps": 1,
            "num_parents": 1,
            "pool": 1,
            "contenders": 2,
        }.items():
            require_range(f"searcher.{key}", getattr(self, key), least, 1_000_000)
        for key in (
            *("noise_median", "noise_sd", "noise_pace", "effect_sd", "fit_rate", "near_step"),
            *("warm_median", "warm_sd", "feasibility_power", "conditional_scale"),
        ):
            require_range(f"searcher.{key}", getattr(self, key), 1e-12, 1e3)
        if self.noise_start is not None:
            require_range("searcher.noise_start", self.noise_start, 1e-12, 1e3)
        require_range("searcher.margin", self.margin, 0.0, 1e3)
        require_range("searcher.likely_failure_power", self.likely_failure_power, 0.0, 1e3)
        require_range("searcher.near_share", self.near_share, 0.0, 1.0)
        if not 0 <= self.effects < 1:
            raise ValueError(f"searcher.effects={self.effects} must lie in [0, 1)")
        require_range("searcher.num_climbers", self.num_climbers, 1, self.pool)
