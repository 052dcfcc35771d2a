"""How much of the log a trial sees, and the curve label of a short curve."""
