"""Compares settings of the method on recorded results, with intervals; `--help` lists the studies."""

import logging
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from autorank.app.composition import record_with, schema
from autorank.app.programs import CONFIGS, plain_errors, register, set_up_jax, settings
from autorank.app.settings import TrackingConfig
from autorank.studies.settings import StudyConfig

if TYPE_CHECKING:
    from autorank.studies.study import Study

LOG = logging.getLogger("autorank")
ROOT = Path(__file__).resolve().parents[1]


def listed_studies() -> str:
    """A help text: every file of ``configs/study`` with its question and how long it takes."""
    lines = []
    for path in sorted(Path(CONFIGS, "study").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        lines.append(f"  study={path.stem:<20} {content['question']} ({content['time']})")
    return "\n".join(lines)


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


def study_of(given: dict[str, Any]) -> "Study":
    """The composed study as the record of its subject.

    Raises:
        ValueError: an unknown subject, a setting that it does not have, or a bad value.
    """
    from autorank.studies.study import refuse_unknown
    from autorank.studies.subjects import SUBJECTS

    record = SUBJECTS[given.get("subject", "predictor")].settings
    refuse_unknown("study", given, record)
    if isinstance(given.get("records"), str):
        given = given | {"records": [given["records"]]}
    return record_with(record, given, "study")


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
    from autorank.studies.subjects import SUBJECTS

    whole = study_of(cfg.study)
    data = Path(os.environ.get("AUTORANK_SHARED_DATA", ROOT.parent / "shared" / "data"))
    load = SUBJECTS[whole.subject].make(whole).load
    # Typos in arms come before anything is loaded.
    study, tables, missing = available(whole, lambda name: load(opened(name, data)))
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
    from autorank.studies.figure import arms_figure
    from autorank.studies.findings import ALL, as_rows, sentence, told

    names = [table.name for table in tables]
    means: dict[str, dict[str, float]] = {}
    for f in (f for f in found if f.table == ALL and not f.is_contrast):
        means.setdefault(f.arm, {})[f"mean/{f.measure}"] = f.mean
    arms = [
        ArmRun(arm, plain(own), rows_of(rows, arm, names), means.get(arm, {}))
        for arm, own in study.resolved().items()
    ]
    versions = [f"{table.name}-{table.fingerprint()[:8]}" for table in tables]
    summary = {
        "question": study.question,
        "told": told(study, found),
        "sentence": sentence(study, tables, found),
        "splits": cfg.splits,
    }
    whole = StudyRun(
        cfg.name,
        tags_of([*names, *versions, version_tag()]),
        arms,
        as_rows(cfg.name, found),
        png_bytes(arms_figure(study, found)),
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
    main()
