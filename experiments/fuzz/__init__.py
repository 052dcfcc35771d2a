"""Random input against promises: tables, Optuna studies, ends of jobs; ``python -m experiments.fuzz.tables``."""
