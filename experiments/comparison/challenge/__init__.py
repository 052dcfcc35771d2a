"""Bayesmark's 108 problems as the NeurIPS 2020 black-box optimisation challenge published and scored them."""
