"""What a search can evaluate.

- `training.training_objective`: trains each configuration on a log; what the programs search over.
- `table.table_objective`: answers from known results.
- `cluster.distributed`: wraps one of these, so that the workers of a Ray cluster evaluate its trials.
"""
