"""Someone else's training script: logistic regression on toy digits in plain NumPy, with a Hydra config.

    python examples/train_digits.py learning_rate=0.3
    python examples/train_digits.py -m hydra/sweeper=autorank \\
        'learning_rate=tag(log, interval(1e-3, 10))' 'weight_decay=tag(log, interval(1e-6, 1e-1))' \\
        'batch_size=choice(8,32,128)' 'features=choice(raw,squares,projected)' 'features.width=choice(32,64,128)'

It knows nothing of autorank. It returns the validation error and the multiplications of one prediction: a job returns a
number, or a pair (quality, cost). Large learning rates diverge, which is a failed trial.
"""

import hydra
import numpy as np
from omegaconf import DictConfig


def digits(seed: int, num_rows: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8x8 pictures of ten random prototypes and their classes: ``[n, 64]`` and ``[n]``."""
    rng = np.random.default_rng(seed)
    prototypes = rng.normal(size=(10, 64))
    classes = rng.integers(0, 10, num_rows)
    return prototypes[classes] + 2.0 * rng.normal(size=(num_rows, 64)), classes


def features(config: DictConfig, pictures: np.ndarray) -> np.ndarray:
    """The pictures as numbers for the linear model."""
    if config.kind == "squares":
        return np.concatenate([pictures, pictures**2 - 5.0], axis=1)
    if config.kind == "projected":
        matrix = np.random.default_rng(1).normal(size=(64, config.width)) / 8.0
        return np.maximum(pictures @ matrix, 0.0)
    return pictures


def train(config: DictConfig, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minibatch gradient descent on the log loss; gives the weights ``[features, 10]``."""
    rng = np.random.default_rng(config.seed)
    weights = np.zeros((x.shape[1], 10))
    for _ in range(config.epochs):
        for rows in np.array_split(rng.permutation(len(x)), max(1, len(x) // config.batch_size)):
            logits = x[rows] @ weights
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(rows)), y[rows]] -= 1.0
            gradient = x[rows].T @ p / len(rows)
            weights -= config.learning_rate * (gradient + config.weight_decay * weights)
            if not np.abs(weights).max() < 1e3:
                raise FloatingPointError(f"diverged at learning_rate={config.learning_rate:g}")
    return weights


@hydra.main(version_base="1.3", config_path="conf", config_name="train_digits")
def main(config: DictConfig) -> tuple[float, float]:
    """Validation error (share of wrong classes) and multiplications of one prediction."""
    pictures, classes = digits(seed=0)
    x = features(config.features, pictures)
    weights = train(config, x[:800], classes[:800])
    error = float(np.mean((x[800:] @ weights).argmax(axis=1) != classes[800:]))
    projection = 64 * config.features.width if config.features.kind == "projected" else 0
    return error, float(weights.size + projection)


if __name__ == "__main__":
    main()
