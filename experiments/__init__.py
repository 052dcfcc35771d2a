"""Programs to run from the repository's root: ``python -m experiments.search``; the folders hold benchmarks and checks.

Those at the top are for users, import from `autorank` alone, and run as files too: ``python -m experiments.search``.
"""
