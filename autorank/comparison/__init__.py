"""Finished runs side by side: grouped by everything that differs but the seed, and compared pair by pair.

`finding` says which folders a pattern means, `reading` what a run's folder holds, `grouping` which runs are the same
search with other seeds, `pairing` what the pairs say; `compare` does all of it, `text`, `figures` and `page` show it.
"""
