"""What a recording leaves: the finished table, its statistics and provenance, and what is said of one in progress."""

import hashlib
import logging
from pathlib import Path

from autorank.app.settings import RecordTableConfig
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps
from autorank.recorded.journal import Content, Header, read_journal
from autorank.recorded.plan import Plan, configurations, ranges
from autorank.recorded.space_text import space_from
from autorank.recorded.statistics import described, statistics
from autorank.recorded.table import RecordedTable, made_table
from autorank.recorded.table_file import read_table, write_table

LOG = logging.getLogger("autorank")


def journal_path(config: RecordTableConfig) -> Path:
    """Where the runs are written as they come."""
    return Path(config.runs) / config.name / "journal.jsonl"


def table_path(config: RecordTableConfig) -> Path:
    """Where the finished table goes."""
    return Path(config.out) / f"{config.name}.parquet"


def plan_of(config: RecordTableConfig, seed: int) -> Plan:
    """Which runs make the whole table."""
    return Plan(config.configurations, config.repeated, config.more_seeds, seed)


def table_of(config: RecordTableConfig, content: Content) -> RecordedTable:
    """What a journal has of the planned runs, as a table."""
    about = dict(content.header.about)
    space = space_from(about.pop("space"), str(journal_path(config)))
    plan = plan_of(config, about["seed"])
    runs = [content.runs[job] for job in plan.runs() if job in content.runs]
    used = sorted({run.session for run in runs})
    about |= {
        "identity": content.header.identity,
        "plan": plan._asdict(),
        "sessions": [content.sessions[i] for i in used],
        "journal": {"broken_lines": len(content.broken), "recorded_twice": content.twice},
    }
    renumbered = [run._replace(session=used.index(run.session)) for run in runs]
    return made_table(space, configurations(space, plan), renumbered, about)


def missing_of(config: RecordTableConfig, content: Content) -> list[tuple[int, int]]:
    """Planned runs that a journal lacks; a line on standard output says so."""
    wanted = plan_of(config, content.header.about["seed"]).runs()
    missing = [job for job in wanted if job not in content.runs]
    if missing:
        numbers = ranges([number for number, _ in missing])
        print(
            f"{config.name} is not finished: {len(wanted) - len(missing)} of {len(wanted)} runs are in "
            f"{journal_path(config)}; configurations with missing runs: {numbers}"
        )
    return missing


def finish(config: RecordTableConfig, content: Content) -> int:
    """Writes the table if its journal is whole; returns the number of missing runs.

    Raises:
        ValueError: the file does not read back as what was written.
    """
    missing = missing_of(config, content)
    if missing:
        return len(missing)
    table, path = table_of(config, content), table_path(config)
    write_table(path, table)
    found = read_table(path)
    if not same_runs(found, table):
        raise ValueError(f"{path} does not read back as it was written; check the disk, then again")
    write_summary(path, found)
    return 0


def same_runs(a: RecordedTable, b: RecordedTable) -> bool:
    """Whether two tables hold the same runs, bit for bit."""
    if len(a.arrays) != len(b.arrays):
        return False
    pairs = zip(a.arrays, b.arrays, strict=True)
    same = all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
    return same and a.failed == b.failed


def write_summary(path: Path, table: RecordedTable) -> None:
    """Writes the provenance and the statistics beside a table, and prints them."""
    found = statistics(table)
    made_by = {
        "command": "python -m experiments.record_table",
        "statistics": found,
        "parquet_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    write_atomically(path.with_suffix(".json"), dumps(made_by | table.about, indent=1) + "\n")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n{described(found)}")


def summarise(config: RecordTableConfig) -> int:
    """Prints the statistics of the finished table, and writes them anew; of one in progress it only prints them."""
    if table_path(config).exists():
        write_summary(table_path(config), read_table(table_path(config)))
        return 0
    content = read_journal(journal_path(config))
    report_damage(journal_path(config), content)
    missing = missing_of(config, content)
    if content.runs:
        print(described(statistics(table_of(config, content))))
    return len(missing)


def report_damage(path: Path, content: Content) -> None:
    """Says what in a journal counts for nothing."""
    if content.broken:
        LOG.warning(
            "%s: %d broken lines (%s); the runs that they held are recorded again",
            *(path, len(content.broken), ranges(content.broken)),
        )
    if content.twice:
        LOG.warning("%s: %d runs are there twice; the first counts", path, content.twice)


def header_of(table: RecordedTable) -> Header:
    """The header behind a finished table."""
    return Header(table.about["identity"], table.about)


def refuse_smaller(config: RecordTableConfig, known: RecordedTable) -> None:
    """Refuses to replace a table by a part of it.

    Raises:
        ValueError: the finished table has runs that these settings do not plan.
    """
    planned = set(plan_of(config, config.seed).runs())
    pairs = zip(*(known.columns[name].tolist() for name in ("number", "repeat")), strict=True)
    more = sum(pair not in planned for pair in pairs)
    if more:
        counts = " ".join(f"{k}={v}" for k, v in known.about["plan"].items() if k != "seed")
        raise ValueError(
            f"{table_path(config)} has {more} runs more than these settings plan; write {counts}, or another name="
        )
