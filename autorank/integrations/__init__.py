"""Our searchers inside other tools; each module needs the extra of its tool.

`optuna` is a sampler for Optuna studies. Its parts: `optuna_values` (values and the numbers that Optuna stores),
`optuna_space` (a study's search space), `optuna_rows` (its trials as the searcher is told them), and `optuna_propose`
(asking the searcher).
"""
