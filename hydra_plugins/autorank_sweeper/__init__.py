"""`hydra/sweeper=autorank` and `hydra/launcher=autorank_ray` for every Hydra app of the environment.

Hydra imports the modules without a leading underscore whenever any Hydra program starts: `config`, `sweeper` and
`ray_launcher` therefore import nothing heavy. `_impl.run` is where a sweep begins.
"""
