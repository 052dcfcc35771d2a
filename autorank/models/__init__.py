"""Ranking models: the DHEN family (arXiv 2203.11014), at their real sizes."""
