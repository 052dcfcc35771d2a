"""How well it searches: searchers and other packages at equal budgets.

Run ``python -m experiments.comparison.bench_search``, then ``python -m experiments.comparison.report``.
"""
