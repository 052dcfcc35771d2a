"""The ledger of a run, the SQLite file under it, and the run's folder."""
