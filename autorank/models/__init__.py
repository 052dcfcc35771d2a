"""Ranking models: the DHEN family (arXiv 2203.11014), built compact or masked from one configuration."""
