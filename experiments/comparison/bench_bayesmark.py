"""Searchers on Bayesmark's 108 problems, scored as the NeurIPS 2020 black-box optimisation challenge scored them.

make bayesmark                                                        the challenge's own environment, once
python -m experiments.comparison.bench_bayesmark --signatures         is each problem the one that was published?
python -m experiments.comparison.bench_bayesmark --searchers bayesmark-random --seeds 10     random search's quantiles
python -m experiments.comparison.bench_bayesmark --searchers autorank optuna-gp optuna-tpe --seeds 10 --workers 8
python -m experiments.comparison.bench_bayesmark --protocol 16x8 --problems 'kNN_*' 'SVM_iris_*' --searchers autorank
python -m experiments.comparison.report                               the tables of docs/results.md

Searchers are those of bench_search (ours, NAME+key=value, peers), and bayesmark-random. A run is a resumable file in
runs/bayesmark; finished ones join the table. Runs that the table has are not run again.
"""

import argparse
import fnmatch
import logging
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from autorank.app.variants import variant_names
from experiments.comparison.challenge import table
from experiments.comparison.challenge.evaluator import (
    OWN_RANDOM,
    SUITE,
    Evaluator,
    benchmark_of,
    own_random,
)
from experiments.comparison.challenge.reference import (
    PROTOCOLS,
    Protocol,
    published_random,
    references,
)
from experiments.comparison.peers.catalogue import PEERS
from experiments.comparison.runs import Driver, Job, read, run_on
from experiments.comparison.worker_pool import in_processes

LOG = logging.getLogger("autorank")


@cache
def evaluator() -> Evaluator:
    """The evaluator of this process."""
    return Evaluator()


def work(jobs: Sequence[Job], folder: Path, until: float) -> int:
    """One job in a worker process; returns the number of new trials."""
    (job,) = jobs
    told = sum(len(line["loss"]) for line in read(job.path(folder)))
    problem = job.task.partition("/")[2]
    benchmark = benchmark_of(evaluator(), problem, job.seed, told)

    def drive(job: Job, benchmark: object) -> Driver:
        return own_random(evaluator(), job, problem)

    return run_on(benchmark, 1.0, job, folder, until, drive if job.searcher == OWN_RANDOM else None)


def jobs_of(
    searchers: Sequence[str], problems: Sequence[str], seeds: range, protocol: Protocol
) -> list[Job]:
    """The runs that are asked for, seed by seed and problem by problem: a stopped command has pairs to compare."""
    return [
        Job(searcher, f"{SUITE}/{problem}", protocol.batch, 0.0, seed, protocol.trials)
        for seed in seeds
        for problem in problems
        for searcher in searchers
    ]


def compiling_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with one of each model and searcher of ours in front: the others find its programs compiled on disk."""
    first: dict[tuple[str, str], Job] = {}
    for job in jobs:
        if job.searcher not in PEERS and job.searcher != OWN_RANDOM:
            first.setdefault((job.searcher, job.task.partition("_")[0]), job)
    front = list(first.values())
    return [*front, *(job for job in jobs if job not in front)]


def matching(globs: Sequence[str], names: Sequence[str]) -> list[str]:
    """The problems that match any glob, in the order of the globs.

    Raises:
        ValueError: a glob that matches none.
    """
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise ValueError(
                f"--problems: no problem is called {glob!r}; they are MODEL_DATA_METRIC, as {', '.join(names[:3])}"
            )
    return list(dict.fromkeys(name for glob in globs for name in fnmatch.filter(names, glob)))


def checked_problems(problems: Sequence[str], protocol: str) -> Iterator[table.Row]:
    """Each problem's signature against the published one."""
    known, server = references(protocol), evaluator()
    versions = server.versions()
    for problem in problems:
        published = known[problem].signature
        apart = np.abs(server.signature(problem) - published) / np.maximum(np.abs(published), 1e-12)
        LOG.info("%s: signature apart by %.2g", problem, apart.max())
        yield {
            "problem": problem,
            "signature_error": f"{apart.max():.3g}",
            "python": versions["python"],
            "scikit-learn": versions["scikit-learn"],
            **{f"random_{p}": f"{published_random(p, [problem]):.6g}" for p in PROTOCOLS},
        }


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--searchers", nargs="*", default=["autorank"])
    parser.add_argument("--protocol", choices=PROTOCOLS, default="100x1")
    parser.add_argument("--problems", nargs="+", default=["*"], help="globs over MODEL_DATA_METRIC")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, help="begin no round after so many")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--table", type=Path, default=table.TABLE)
    parser.add_argument("--no-table", action="store_true", help="leave the table as it is")
    parser.add_argument("--signatures", action="store_true", help="check the problems, run none")
    options = parser.parse_args(argv)
    try:
        options.problems = matching(options.problems, list(references(options.protocol)))
        batch = PROTOCOLS[options.protocol].batch
        ours = [s for s in options.searchers if s != OWN_RANDOM]
        own = [s for s in options.searchers if s == OWN_RANDOM]
        options.searchers = own + list(variant_names(ours, batch, {}, {}, PEERS)) if ours else own
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing, then grows the table; returns the number of failed runs."""
    options = parsed(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    protocol = PROTOCOLS[options.protocol]
    if options.signatures:
        table.write_problems(
            list(checked_problems(options.problems, protocol.name)), table.PROBLEMS
        )
        return 0
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    known = set() if options.no_table else {table.run_of(r) for r in table.rows_of(options.table)}
    jobs = [
        job
        for job in jobs_of(options.searchers, options.problems, seeds, protocol)
        if table.Run(protocol.name, job.task.partition("/")[2], job.searcher, job.seed) not in known
    ]
    groups = [[job] for job in compiling_first(jobs)]
    folder = table.folder_of(protocol.name, options.runs)
    failed = in_processes(work, groups, folder, options.workers, options.seconds)
    if not options.no_table:
        rows = table.write_table(options.runs, options.table)
        table.write_random(options.runs, options.table.with_name(table.RANDOM.name))
        LOG.info("wrote %s: %d rows; %d runs failed", options.table, rows, failed)
    return failed


if __name__ == "__main__":
    sys.exit(main())
