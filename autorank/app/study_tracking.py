"""A study in W&B: every arm a run, every split a row of it, and a run with the study's table and figure.

Runs are written when a study ends, from what its journal has. Their ids and the rows that they have been told lie
beside the journal (``wandb.json``), so that a study that goes on with more splits or arms continues the same runs.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.app.run_labels import Labels
from autorank.app.settings import TrackingConfig
from autorank.app.tracking import active_run, decided, new_run
from autorank.app.tracking_settings import Decision, new_id, reason
from autorank.base.records import digest
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps

LOG = logging.getLogger(__name__)
STATE, FIGURE = "wandb.json", "figure.png"  # in the study's folder
SPLIT = "split"
SUMMARY = "summary"  # job type of the study's own run


class ArmRun(NamedTuple):
    """One arm as W&B is told of it."""

    arm: str
    settings: dict[str, Any]
    rows: dict[int, dict[str, float]]  # by split: ``TABLE/MEASURE`` -> value
    summary: dict[str, float]


class StudyRun(NamedTuple):
    """A study as W&B is told of it."""

    name: str
    tags: tuple[str, ...]  # data sets and their versions
    arms: list[ArmRun]
    table: list[dict[str, Any]]  # of the findings, one dict a row
    figure: Callable[[], bytes] | None  # draws a PNG
    summary: dict[str, Any]  # question, sentence, splits, ...


def track_study(settings: TrackingConfig, folder: Path, study: StudyRun) -> None:
    """Tells W&B what it does not know yet; whatever fails is a warning, the journal has everything.

    Args:
        settings: mode, project, group, job type and tags, which win over the study's own where they are written.
        folder: of the study's journal; W&B's own files go there too, unless ``WANDB_DIR`` says where.
        study: arms, rows and findings.
    """
    try:
        decision = decided(settings)
        if decision.mode == "disabled":
            LOG.info("W&B is off: %s", decision.why)
            return
        told = _Told(settings, decision, folder, study)
        new = [told.arm(arm) for arm in study.arms]
        if any(new) or told.changed():
            told.summary()
        LOG.info("W&B %s: %d of %d arms had something new", decision.mode, sum(new), len(new))
    except Exception as error:  # noqa: BLE001 - any failure of W&B, the study must go on
        LOG.warning("W&B: %s; the journal has everything", reason(error))


class _Told:
    """The runs of a study, and what they have been told."""

    def __init__(self, settings: TrackingConfig, decision: Decision, folder: Path, study: StudyRun):
        self._settings, self._decision = settings, decision
        self._folder, self._study = folder, study
        path = folder / STATE
        self._state: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def arm(self, arm: ArmRun) -> bool:
        """Logs the rows of splits that are new; whether there were any."""
        known = set(self._state.get(f"arm {arm.arm}", {}).get("splits", []))
        new = sorted(set(arm.rows) - known)
        if not new:
            return False
        config = {"study": self._study.name, "arm": arm.arm} | arm.settings
        run = self._open(f"arm {arm.arm}", arm.arm, arm.arm, config)
        run.define_metric(SPLIT, hidden=True)
        run.define_metric("*", step_metric=SPLIT)
        for split in new:
            known.add(split)
            run.log({SPLIT: split} | arm.rows[split], step=len(known))
        run.summary.update(arm.summary)
        run.finish()
        self._keep(f"arm {arm.arm}", run.id, splits=sorted(known))
        return True

    def changed(self) -> bool:
        """Whether the findings are others than those that the study's own run has."""
        return self._state.get(SUMMARY, {}).get("findings") != digest(self._study.table)

    def summary(self) -> None:
        """The study's own run: table, figure and what they say."""
        import wandb

        study = self._study
        run = self._open(SUMMARY, SUMMARY, study.name, {"study": study.name})
        columns: list[Any] = list(dict.fromkeys(name for row in study.table for name in row))
        rows = [[row.get(name) for name in columns] for row in study.table]
        run.log({"findings": wandb.Table(columns=columns, data=rows)})
        if study.figure:
            path = self._folder / FIGURE
            path.write_bytes(study.figure())
            run.log({"figure": wandb.Image(str(path))})
        run.summary.update(study.summary)
        run.finish()
        self._keep(SUMMARY, run.id, findings=digest(study.table))

    def _open(self, item: str, job_type: str, name: str, config: Mapping[str, Any]) -> Any:
        labels = Labels(self._study.name, job_type, self._study.tags, name)
        # Never WANDB_RUN_ID, which would make one run of all.
        known = self._state.get(item, {}).get("id") or new_id(name)
        run, _ = new_run(
            self._settings, self._decision, self._folder, known, config, labels, active_run()
        )
        return run

    def _keep(self, item: str, run_id: str, **what: Any) -> None:
        self._state[item] = {"id": run_id} | what
        write_atomically(self._folder / STATE, dumps(self._state, indent=1) + "\n")


def rows_of(
    rows: Mapping[Any, Mapping[str, float]], arm: str, tables: Sequence[str]
) -> dict[int, dict[str, float]]:
    """The splits of an arm that all tables have, as rows of its run; with their means where there are several tables.

    Args:
        rows: of the journal, by arm, table and split.
        arm: its name.
        tables: their names.

    Examples:
        >>> from collections import namedtuple
        >>> Cell = namedtuple("Cell", "arm table split")
        >>> rows = {Cell("a", "t", 0): {"tau_b": 0.5}, Cell("a", "u", 0): {"tau_b": 0.7}, Cell("a", "t", 1): {}}
        >>> rows_of(rows, "a", ["t", "u"])
        {0: {'t/tau_b': 0.5, 'u/tau_b': 0.7, 'all/tau_b': 0.6}}
    """
    found: dict[int, dict[str, dict[str, float]]] = {}
    for cell, values in rows.items():
        if cell.arm == arm and cell.table in tables:
            found.setdefault(cell.split, {})[cell.table] = dict(values)
    whole = {split: of for split, of in sorted(found.items()) if len(of) == len(tables)}
    logged = {}
    for split, of in whole.items():
        values = {f"{t}/{m}": v for t in tables for m, v in of[t].items()}
        if len(tables) > 1:
            means = {m: sum(of[t][m] for t in tables) / len(tables) for m in of[tables[0]]}
            values |= {f"all/{m}": v for m, v in means.items()}
        # A measure that is not defined is left out.
        logged[split] = {name: v for name, v in values.items() if math.isfinite(v)}
    return logged
