"""The tables of a ledger, today's and those of older formats."""

FORMAT = "2"
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE records (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL,
    payload TEXT NOT NULL, UNIQUE (kind, key))""",
    """CREATE TABLE trials (id INTEGER PRIMARY KEY, stage TEXT NOT NULL, round INTEGER NOT NULL,
    rung INTEGER NOT NULL, position INTEGER NOT NULL, config TEXT NOT NULL, seed INTEGER NOT NULL,
    fidelity REAL NOT NULL, predicted TEXT, status TEXT NOT NULL, reason TEXT NOT NULL, quality REAL, cost REAL,
    outcome TEXT, proposed_at REAL NOT NULL, finished_at REAL, UNIQUE (stage, round, rung, position))""",
)
# Format 1 had no column for the rung; a promotion's round was 100 * round + rung.
TRIALS_OF_FORMAT_1 = """(SELECT id, stage,
    CASE stage WHEN 'promotion' THEN round / 100 ELSE round END AS round,
    CASE stage WHEN 'promotion' THEN round % 100 ELSE 0 END AS rung,
    position, config, seed, fidelity, predicted, status, reason, quality, cost, outcome, proposed_at, finished_at
    FROM trials)"""
# By format, what a query selects trials from.
TRIALS = {"1": TRIALS_OF_FORMAT_1, FORMAT: "trials"}
