"""Training: the row-sparse table update and the one-pass trainer of one model."""
