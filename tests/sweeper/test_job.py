"""A job in its process: it never runs twice at a time, and its result outlives its driver."""

import threading
import time
from types import SimpleNamespace

import pytest

from hydra_plugins.autorank_sweeper import _job, _kept, _lock, _signals

OVERRIDES = ["x=1", "hydra.job.name=a", "kind=b"]


@pytest.fixture(autouse=True)
def job_config(monkeypatch):
    config = SimpleNamespace(overrides=SimpleNamespace(task=OVERRIDES))
    monkeypatch.setattr(_job, "HydraConfig", SimpleNamespace(get=lambda: config))
    # A sweep forgets who stopped the last one of its process when it starts; these jobs run without a sweep.
    monkeypatch.setattr(_signals, "_asked", None)


def watched(task, folder, ledger="l", driver="d") -> _job.Job:
    job = _job.Job(task)
    job.watch(folder, ledger, driver, pool=False)
    return job


NAME = _kept.job_name(["x=1", "kind=b"])


def test_a_result_is_found_by_the_next_driver_of_the_same_ledger_only(tmp_path):
    assert watched(lambda c: (1.5, 2), tmp_path)(None) == (1.5, 2)
    never = watched(pytest.fail, tmp_path, driver="next")
    assert never.found(NAME) == (1.5, 2.0, "", None) and never(None) == (1.5, 2.0)
    other = watched(lambda c: 7.0, tmp_path, ledger="another")
    assert other.found(NAME) is None and other(None) == 7.0
    other.forget(NAME)
    assert [p.name for p in tmp_path.iterdir()] == ["driver"]


def test_a_failure_is_found_with_its_reason(tmp_path):
    def task(config):
        raise MemoryError("too much\nstack")

    with pytest.raises(MemoryError):
        watched(task, tmp_path)(None)
    again = watched(pytest.fail, tmp_path, driver="next")
    assert again.found(NAME).failed == "MemoryError: too much"
    with pytest.raises(_job.Failed, match="MemoryError: too much"):
        again(None)


def test_what_is_still_running_is_waited_for_and_not_run_beside_itself(tmp_path):
    count = []

    def slow(config):
        count.append(1)
        time.sleep(0.5)
        return 3.0

    orphan = threading.Thread(target=watched(slow, tmp_path), args=(None,))
    orphan.start()
    while not count:
        time.sleep(0.01)
    assert watched(slow, tmp_path, driver="next")(None) == 3.0
    orphan.join()
    assert len(count) == 1


def test_a_job_that_starts_after_its_driver_was_replaced_does_not_run(tmp_path):
    late = watched(pytest.fail, tmp_path)
    watched(lambda c: 1.0, tmp_path, driver="next")
    with pytest.raises(_lock.Superseded):
        late(None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"ledger": "l", "quality": "x", "cost": null, "failed": ""}',
        '{"ledger": "l", "quality": 1, "cost": -1, "failed": ""}',
    ],
)
def test_a_damaged_result_is_no_result(tmp_path, text):
    job = watched(lambda c: 4.0, tmp_path)
    (tmp_path / f"{NAME}.json").write_text(text)
    assert job.found(NAME) is None and job(None) == 4.0


def test_a_disk_without_room_for_the_result_costs_no_trial(tmp_path, monkeypatch):
    job = watched(lambda c: 4.0, tmp_path)
    monkeypatch.setattr(_kept, "write_json", lambda *a: (_ for _ in ()).throw(OSError("full")))
    assert job(None) == 4.0


def test_a_machine_that_does_not_see_the_folder_runs_the_job(tmp_path):
    job = watched(lambda c: 4.0, tmp_path)
    assert job.kept is not None
    job.kept = job.kept._replace(folder=str(tmp_path / "not" / "here"))
    assert job(None) == 4.0
