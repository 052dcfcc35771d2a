"""The search space: Hydra's sweep grammar and vectorised operations on configurations."""
