"""How fast it is: training, data, predictor, policy, whole searches; ``python -m experiments.speed.data``."""
