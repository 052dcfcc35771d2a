"""How much of the log a trial sees, and the label of a short curve."""
