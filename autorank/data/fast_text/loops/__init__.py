"""Loops over every cell, compiled by numba; importing one of these modules imports numba."""
