"""One-pass training: a model on one device or several, a population on one, and the row-sparse table update."""
