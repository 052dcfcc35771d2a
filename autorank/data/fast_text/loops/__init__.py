"""Compiled loops over every cell; importing one loads numba."""
