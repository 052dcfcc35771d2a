"""`hydra/sweeper=autorank` and `hydra/launcher=autorank_ray`."""
