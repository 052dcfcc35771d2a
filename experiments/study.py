"""Compares settings of the method on recorded results, with intervals; `--help` lists the studies."""

import logging
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from autorank.app.composition import schema
from autorank.app.programs import (
    CONFIGS,
    of_checkout,
    plain_errors,
    register,
    set_up_jax,
    settings,
)
from autorank.app.settings import TrackingConfig
from autorank.studies.settings import StudyConfig

if TYPE_CHECKING:
    from autorank.studies.study import Study

LOG = logging.getLogger("autorank")
ROOT = Path(__file__).resolve().parents[1]
NO_RECORDS = (
    3  # exit status where the records of a study, or a package that reads them, are not there
)


def listed_studies() -> str:
    """A help text: every file of ``configs/study`` with its question and how long it takes."""
    lines = []
    for name in all_studies():
        content = yaml.safe_load(Path(CONFIGS, "study", f"{name}.yaml").read_text())
        lines.append(f"  study={name:<20} {content['question']} ({content['time']})")
    lines.append(f"  study={'all':<20} these one after the other, and how long each took")
    return "\n".join(lines)


def all_studies() -> list[str]:
    """The names of the files of ``configs/study``."""
    return sorted(path.stem for path in Path(CONFIGS, "study").glob("*.yaml"))


def run_all(overrides: list[str]) -> int:
    """Every study with the same overrides, each in a process of its own: one that fails stops no other.

    Returns:
        1 if a study failed, else 0.
    """
    if any(text.startswith("name=") for text in overrides):
        sys.exit("error: study=all keeps every study under its own name; leave name= out")
    names, lines, failed = all_studies(), [], 0
    for number, name in enumerate(names, start=1):
        print(f"\nstudy={name}, {number} of {len(names)}", flush=True)
        started = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, f"study={name}", *overrides], check=False)
        seconds = time.perf_counter() - started
        failed += done.returncode not in (0, NO_RECORDS)
        remark = {0: "", NO_RECORDS: "left out: its records are not there"}
        lines.append(
            (name, seconds, remark.get(done.returncode, "failed: started again, it goes on"))
        )
    print(f"\n{'study':<24} seconds")
    for name, seconds, remark in [*lines, ("all", sum(s for _, s, _ in lines), "")]:
        print(f"{name:<24} {seconds:>7.0f}  {remark}".rstrip())
    return int(failed > 0)


def command() -> str:
    """The command of this run, without where this machine keeps its files and how many fits it does side by side."""
    own = [
        text
        for text in HydraConfig.get().overrides.task
        if text.partition("=")[0] not in ("runs", "results", "workers")
        and not text.startswith("tracking.")
    ]
    return shlex.join(["python", "-m", "experiments.study", *own])


@dataclass(frozen=True)
class Config(StudyConfig):
    """`StudyConfig`, and how W&B is told."""

    tracking: TrackingConfig = field(default_factory=TrackingConfig)


register()
OmegaConf.register_new_resolver("studies", listed_studies, replace=True)
# Without a study there is no name; the settings then say what to write.
OmegaConf.register_new_resolver("or_study", lambda choice: choice or "study", replace=True)
node = schema(Config)
# A study has the settings of its subject: `study_of` refuses unknown ones with a better message.
OmegaConf.set_struct(node.study, False)
ConfigStore.instance().store(name="base_study", node=node)


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="study")
@plain_errors
def main(config: DictConfig) -> None:
    """Runs or resumes a study, and prints its table and what it shows."""
    cfg = settings(config, Config)
    set_up_jax()
    # Imported late: --help and typos must not wait for JAX.
    from autorank.benchmarks.catalogue import opened
    from autorank.studies.available import available
    from autorank.studies.findings import described, findings, sentence, told
    from autorank.studies.journal import Journal
    from autorank.studies.run import identity_of, run_study
    from autorank.studies.subjects import SUBJECTS, study_of

    of_checkout("experiments.comparison.peers.in_study").register_rules()
    whole = study_of(cfg.study)
    data = Path(os.environ.get("AUTORANK_SHARED_DATA", ROOT.parent / "shared" / "data"))
    load = SUBJECTS[whole.subject].make(whole).load
    # `available` refuses typos in arms before it loads anything.
    try:
        study, tables, missing = available(whole, lambda name: load(opened(name, data)))
    except (FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(NO_RECORDS)
    for reason in missing:
        LOG.warning("left out: %s", reason)
    for table in tables:
        LOG.info("%s: %s", table.name, table.described())
    identity = identity_of(study, tables, cfg.seed)
    with Journal(Path(cfg.runs) / cfg.name, identity, study.measures) as journal:
        rows = run_study(
            study, tables, journal, splits=cfg.splits, seed=cfg.seed, workers=cfg.workers
        )
        seconds = journal.cpu_seconds
    found = findings(study, tables, cfg.splits, rows)
    print(f"{study.question}\nThe paper: {study.paper}\n\n{described(study, tables, found)}\n")
    print("\n".join([*told(study, found), sentence(study, tables, found)]))
    print(f"{seconds:.0f} CPU seconds")
    if cfg.write:
        write(cfg, study, tables, found, missing, seconds)
    track(cfg, study, tables, rows, found)


def track(cfg: Config, study: "Study", tables: list[Any], rows: Any, found: list[Any]) -> None:
    """Tells W&B: a run for each arm, and one with the findings."""
    from autorank.app.run_labels import tags_of, version_tag
    from autorank.app.study_tracking import ArmRun, StudyRun, rows_of, track_study
    from autorank.base.records import plain
    from autorank.report.style import png_bytes
    from autorank.studies.figures import figure_of
    from autorank.studies.findings import ALL, as_rows, sentence, told
    from autorank.studies.written import Key, Row, Written

    names = [table.name for table in tables]
    means: dict[str, dict[str, float]] = {}
    for f in (f for f in found if f.table == ALL and not f.is_contrast):
        means.setdefault(f.arm, {})[f"mean/{f.measure}"] = f.mean
    arms = [
        ArmRun(arm, plain(own), rows_of(rows, arm, names), means.get(arm, {}))
        for arm, own in study.resolved().items()
    ]
    versions = [f"{table.name}-{table.fingerprint()[:8]}" for table in tables]
    says = told(study, found)
    written = Written(
        cfg.name,
        study,
        {Key(f.arm, f.table, f.measure): Row(f.mean, f.difference) for f in found},
        {"study": plain(study)},
    )
    summary = {
        "question": study.question,
        "told": says,
        "sentence": sentence(study, tables, found),
        "splits": cfg.splits,
    }
    whole = StudyRun(
        cfg.name,
        tags_of([*names, *versions, version_tag()]),
        arms,
        as_rows(cfg.name, found),
        lambda: png_bytes(figure_of(written, says[0] if says else study.question)),
        summary,
    )
    track_study(cfg.tracking, Path(cfg.runs) / cfg.name, whole)


def write(
    cfg: StudyConfig,
    study: "Study",
    tables: list[Any],
    found: list[Any],
    missing: list[str],
    seconds: float,
) -> None:
    """Writes the results and what made them.

    Raises:
        ValueError: something was left out, or what is there has more splits.
    """
    from autorank.app.provenance import provenance, write_rows
    from autorank.base.records import plain
    from autorank.studies.findings import as_rows, refuse_fewer_splits, refuse_parts, sentence, told

    path = Path(cfg.results) / f"{cfg.name}.csv"
    refuse_parts(path, missing)
    refuse_fewer_splits(path, cfg.splits)
    made_by = {
        "command": command(),
        "told": told(study, found),
        "sentence": sentence(study, tables, found),
        "splits": cfg.splits,
        "seed": cfg.seed,
        "cpu_seconds": round(seconds),
        "study": plain(study),
        "records": {table.name: table.fingerprint() for table in tables},
    }
    write_rows(path, as_rows(cfg.name, found), made_by | provenance())
    LOG.info("%s and what made it are written", path)


if __name__ == "__main__":
    if "study=all" in sys.argv:
        sys.exit(run_all([text for text in sys.argv[1:] if text != "study=all"]))
    main()
