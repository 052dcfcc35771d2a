"""Settings of training."""

from dataclasses import dataclass

from autorank.base.records import require, require_range


@dataclass(frozen=True)
class TrainingConfig:
    """One pass over the log; the rates are the baseline's where a space searches over them."""

    batch_size: int = 256  # rows a step
    num_windows: int = 100  # windows of the NE curve
    devices: int = 1  # spread one model and its table over this many of the host (0: all)
    # frozen: the trained model scores the held-out rows; progressive: it goes on learning meanwhile
    held_out: str = "frozen"
    # Of matrix products and a population's activations: float32, bfloat16.
    precision: str = "float32"
    warmup_share: float = 0.1  # linear warm-up over this share of the full run's steps
    dense_rate: float = 1e-3  # Adam, dense parameters
    table_rate: float = 5e-2  # row-wise Adagrad, embedding rows
    dense_eps: float = 1e-8
    table_eps: float = 1e-8
    weight_decay: float = 0.0  # decoupled, dense parameters
    init_scale: float = 1.0  # factor on the dense initialisation
    table_scale: float = 0.01  # standard deviation of new embedding rows

    def __post_init__(self):
        for key in ("batch_size", "num_windows"):
            require_range(f"training.{key}", getattr(self, key), 1, 1 << 30)
        require_range("training.devices", self.devices, 0, 1 << 30)
        require("training.precision", self.precision, ("float32", "bfloat16"))
        require("training.held_out", self.held_out, ("frozen", "progressive"))
        require_range("training.warmup_share", self.warmup_share, 0.0, 1.0)
