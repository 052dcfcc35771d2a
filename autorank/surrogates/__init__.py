"""Models that stand in for training: the paper's ensemble with its losses, and a Gaussian process."""
