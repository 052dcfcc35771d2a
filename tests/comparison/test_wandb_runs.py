"""Runs that W&B keeps, offline and on a server, are compared as their folders are."""

import csv
import io
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import yaml

from autorank.app.settings import TrackingConfig
from autorank.app.tracking import start_tracking
from autorank.app.wandb_projects import open_api
from autorank.comparison.compare import compare, read_all
from autorank.comparison.finding import run_folders
from autorank.comparison.reading import read_search
from autorank.comparison.result import LeftOut, Result
from autorank.comparison.text import csv_text
from autorank.comparison.wandb_file import MAGIC, read_file, records
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import read_run
from tests.comparison.fake_runs import settings, write_run
from tests.offline_runs import written

OFFLINE = TrackingConfig(mode="offline")


def track(folder: Path, sessions: int = 1, config: dict | None = None) -> Path:
    """Mirrors a run into W&B's offline files; all but the last session end after three more trials."""
    run = read_run(folder)
    found = read_search(folder)
    points = found.front.tolist() if isinstance(found, Result) else []
    summary = run.summary | {"front": [{"flops_ratio": f, "quality": q} for f, q in points]}
    settings = config or yaml.safe_load(run.config)
    with Ledger.read(folder / "trials.db") as ledger:
        identity, trials = ledger.file.identity, ledger.trials()
    with Ledger.open(folder / "trials.db", identity) as ledger:
        for session in range(1, sessions + 1):
            last = session == sessions
            seen = trials if last else trials[: 3 * session]
            with mock.patch.object(Ledger, "trials", lambda self, seen=seen: seen):
                tracker = start_tracking(OFFLINE, folder, ledger, settings)
                tracker.sync()
                tracker.finish(folder, summary if last else {})
            time.sleep(0 if last else 1.0)  # W&B's folders are named by the second
    written(folder)
    return folder / "wandb"


@pytest.fixture
def four(tmp_path, home):
    """Two searchers, two seeds: run folders, and W&B's folders beside them."""
    gains = {("paper", 0): -0.3, ("paper", 1): -0.1, ("autorank", 0): 0.2, ("autorank", 1): 0.1}
    for (searcher, seed), gain in gains.items():
        folder = write_run(tmp_path / "runs" / f"{searcher}-{seed}", settings(searcher, seed), gain)
        track(folder, sessions=2 if (searcher, seed) == ("paper", 0) else 1)
    return tmp_path / "runs"


def table(found):
    """The comparison's table without where the runs lie, and without letters, which follow the order of the runs."""
    return [
        {k: v for k, v in row.items() if k not in ("folders", "group", "reference")}
        for row in csv.DictReader(io.StringIO(csv_text(found)))
    ]


def test_offline_files_give_the_comparison_that_the_folders_give(four):
    of_folders = compare([str(four)], ["searcher=autorank"])
    of_wandb = compare([f"{four}/*/wandb"], ["searcher=autorank"])
    assert of_wandb.num_runs == 4 and not of_wandb.left_out
    assert table(of_wandb) == table(of_folders)
    for measure in ("label", "ne"):
        assert table(compare([f"{four}/*/wandb"], [], measure)) == table(
            compare([str(four)], [], measure)
        )
    ours = read_search(four / "paper-0")
    (theirs,), _ = read_all([str(four / "paper-0" / "wandb")])
    assert isinstance(ours, Result)
    np.testing.assert_allclose(theirs.course.passes, ours.course.passes)
    np.testing.assert_allclose(theirs.course.best[2:], ours.course.best[2:])
    np.testing.assert_allclose(theirs.front, ours.front)
    assert (theirs.settings, theirs.idle, theirs.machine) == (
        ours.settings,
        ours.idle,
        ours.machine,
    )


def test_every_way_to_name_offline_files_means_the_same_runs(four):
    folder = four / "autorank-0" / "wandb"
    (session,) = folder.glob("offline-run-*")
    (file,) = session.glob("*.wandb")
    for place in (folder, session, file, f"{four}/autorank-0/w*/*"):
        assert run_folders([str(place)]) == [session]
    assert len(run_folders([str(four / "paper-0" / "wandb")])) == 2  # sessions of one run
    assert len(read_all([str(four / "paper-0" / "wandb")])[0]) == 1


def test_a_record_over_several_blocks_and_a_file_that_was_cut_off(tmp_path, home):
    config = settings("paper", 0)
    folder = write_run(tmp_path / "run", config, -0.3)
    long = "".join(map(str, range(30_000)))
    track(folder, config=config | {"long": long})
    (file,) = (folder / "wandb").glob("offline-*/*.wandb")
    data = file.read_bytes()
    run = read_file(file)
    assert run.config["long"] == long and len(data) > 4 * 32768
    whole = list(records(data))
    for cut in range(len(MAGIC), len(data), 997):
        found = list(records(data[:cut]))
        assert found == whole[: len(found)]
    file.write_bytes(data[:-200])
    (cut_off,), left = read_all([str(file)])  # the search's summary comes before what is lost
    assert isinstance(cut_off, Result) and not left
    file.write_bytes(data[:40_000] + b"?" + data[40_001:])
    (left,) = read_all([str(file)])[1]
    assert "damaged at byte" in left.reason
    file.write_bytes(b"PK" + data)
    assert "does not begin" in read_all([str(file)])[1][0].reason


def test_what_is_no_finished_search_of_ours_is_left_out_with_the_reason(tmp_path, home):
    import wandb

    folder = write_run(tmp_path / "cut", settings("paper", 0), -0.3, finished=False)
    track(folder)
    other = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True))
    other.log({"loss": 1.0})
    other.finish()
    written(tmp_path / "wandb")
    found, left = read_all([str(folder / "wandb"), str(tmp_path / "wandb")])
    assert not found and [entry.reason.partition(";")[0] for entry in left] == [
        "W&B has no summary of a finished search",
        "its W&B config has no ledger_identity: another program's, or an earlier version's",
    ]


class FakeApi:
    """`wandb.Api` over what offline files hold."""

    def __init__(self, runs):
        self._runs, self.asked = runs, []

    def runs(self, path):
        self.asked.append(path)
        if path != "team/project":
            raise LookupError(f"Could not find project {path}")
        return iter(self._runs)


def on_server(run):
    """A run of the fake server: nested configs, a summary, rows that have all of the keys."""

    def scan_history(keys):
        return ({k: row[k] for k in keys} for row in run.history if all(k in row for k in keys))

    summary = SimpleNamespace(_json_dict=run.summary)
    return SimpleNamespace(
        id=run.id, config=run.config, summary=summary, scan_history=scan_history, state="finished"
    )


def test_a_project_of_a_server_is_read_by_its_api(four):
    from autorank.comparison.wandb_file import joined

    files = sorted(four.glob("*/wandb/offline-run-*/*.wandb"), key=lambda p: p.parent.name)
    api = FakeApi([on_server(run) for run in joined(map(read_file, files))])
    found = compare(["wandb:team/project"], ["searcher=autorank"], api=lambda: api)
    assert api.asked == ["team/project"]
    assert table(found) == table(compare([str(four)], ["searcher=autorank"]))
    assert str(found.groups[0].results[0].folder).startswith("wandb:team/project/")
    with pytest.raises(
        ValueError, match="wandb:team/other cannot be read .*Could not find project"
    ):
        compare(["wandb:team/other"], api=lambda: api)


def test_a_server_needs_a_login_and_says_what_to_do_without(home):
    with pytest.raises(ValueError, match="wandb login, set WANDB_API_KEY, or name run folders"):
        compare(["wandb:team/project"], api=open_api)


def test_left_out_is_what_a_reader_gets(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.wandb").write_bytes(MAGIC)
    found, left = read_all([str(tmp_path / "empty")])
    assert not found and isinstance(left[0], LeftOut) and "no run yet" in left[0].reason
