"""A study that goes on continues its W&B runs, and tells them only what is new."""

from autorank.app.settings import TrackingConfig
from autorank.app.study_tracking import ArmRun, StudyRun, track_study
from autorank.comparison.wandb_file import joined, read_file
from tests.offline_runs import written

OFFLINE = TrackingConfig(mode="offline")


def study(splits: int, arms: tuple[str, ...], value: float = 0.0) -> StudyRun:
    made = [
        ArmRun(
            arm,
            {"num_train": 20, "api_key": "LEAKED"},
            {s: {"t/tau_b": 0.1 * s} for s in range(splits)},
            {"mean/tau_b": 0.05 * (splits - 1)},
        )
        for arm in arms
    ]
    table = [{"arm": arm, "mean": value} for arm in arms]
    return StudyRun("mine", ("t",), made, table, None, {"splits": splits})


def runs_of(folder):
    return {
        run.config.get("arm", "summary"): run for run in joined(map(read_file, written(folder)))
    }


def sessions(folder) -> int:
    return len(list(folder.glob("wandb/offline-*")))


def test_only_new_splits_and_arms_are_told_and_ids_stay(tmp_path, home, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_RUN_ID", "one-for-all")
    logged, plain = [], wandb.Run.log

    def log(self, data, step=None, **options):
        logged.append((self.id, data.get("split"), step))
        return plain(self, data, step=step, **options)

    monkeypatch.setattr(wandb.Run, "log", log)
    folder = tmp_path / "study"
    folder.mkdir()
    track_study(OFFLINE, folder, study(2, ("a", "b")))
    first = runs_of(folder)
    assert set(first) == {"a", "b", "summary"} and len({run.id for run in first.values()}) == 3
    assert [row["t/tau_b"] for row in first["a"].history] == [0.0, 0.1]
    assert b"LEAKED" not in b"".join(p.read_bytes() for p in written(folder))
    before, told = sessions(folder), len(logged)
    track_study(OFFLINE, folder, study(2, ("a", "b")))
    assert sessions(folder) == before and len(logged) == told  # nothing is new
    track_study(OFFLINE, folder, study(3, ("a", "b", "c"), value=1.0))
    new = [(run.rpartition("-")[0], split, step) for run, split, step in logged[told:]]
    assert new == [
        ("a", 2, 3),
        ("b", 2, 3),
        ("c", 0, 1),
        ("c", 1, 2),
        ("c", 2, 3),
        ("mine", None, None),
    ]
    after = {run for run, _, _ in logged[told:]}
    assert {first[name].id for name in first} < after


def test_a_failure_of_wandb_is_a_warning(tmp_path, home, monkeypatch, caplog):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **options: (_ for _ in ()).throw(OSError("no room")))
    track_study(OFFLINE, tmp_path, study(1, ("a",)))
    assert "no room; the journal has everything" in caplog.text
    track_study(TrackingConfig(mode="disabled"), tmp_path, study(1, ("a",)))
    assert not (tmp_path / "wandb.json").exists()
