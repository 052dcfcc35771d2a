"""Stands in for `experiments.comparison.challenge.server`: its protocol, with a loss that is the seed it was given."""

import os
import sys

sys.path.insert(0, os.getcwd())

from experiments.comparison.challenge.server import serve  # noqa: E402


class Problems:
    """One problem of one integer."""

    def versions(self):
        return {"python": "3.7"}

    def space(self, name):
        return {"p": {"type": "int", "space": "linear", "range": (1, 40)}}

    def signature(self, name):
        raise KeyError(name)

    def suggest(self, name, seed, n):
        return [{"p": 1 + (7 * (seed + i)) % 40} for i in range(n)]

    def evaluate(self, name, row, seed):
        return float(seed)


serve(Problems(), sys.stdin, sys.stdout)
