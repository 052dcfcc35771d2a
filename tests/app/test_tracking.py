"""The W&B mirror offline and off: same run after a resume, nothing twice, no secrets, no exceptions."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from autorank.app import mirror, tracking
from autorank.app.programs import CONFIGS, register
from autorank.app.run_labels import Launch, labels_of, launch
from autorank.app.settings import SearchConfig, TrackingConfig
from autorank.app.tracking import OFF, start_tracking
from autorank.app.tracking_settings import logged_in, reason, resolve_mode, scrub
from autorank.ledger.ledger import Ledger
from autorank.report.page import write_report
from tests.offline_runs import messages, written
from tests.report.fake_run import IDENTITY, write_run

CONFIG = {
    "search": {"trials": 60},
    "api_key": "LEAKED-1",
    "data": {"path": "https://me:LEAKED-2@host/x"},
}


def settings(mode: str) -> TrackingConfig:
    return TrackingConfig(mode=mode, group="g", tags=("t",))


@pytest.fixture
def logged(monkeypatch):
    """What goes to W&B's ``log``, with its step, run by run."""
    import wandb

    calls, plain = [], wandb.Run.log

    def log(self, data, step=None, **options):
        calls.append((self.id, step, data))
        return plain(self, data, step=step, **options)

    monkeypatch.setattr(wandb.Run, "log", log)
    return calls


def test_an_offline_run_is_continued_and_nothing_is_logged_twice(tmp_path, home, logged):
    folder = write_run(tmp_path / "my run!")
    write_report(folder)
    summary = json.loads((folder / "summary.json").read_text())
    ids = []
    for session in range(2):
        with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
            tracker = start_tracking(settings("offline"), folder, ledger, CONFIG)
            assert tracker is not OFF
            before = len(logged)
            tracker.sync()
            ids.append(ledger.get("wandb_id"))
            ended = [t for t in ledger.trials() if t.status != "proposed"]
            rounds = ledger.records("policy")
            told = {r["predictor/round"] for *_, r in logged if "predictor/round" in r}
            assert told == {t.round for t in ended if t.stage == "round" and t.predicted}
            own = 0 if session else len(ended) + len(rounds) + len(told)
            assert len(logged) - before == own
            tracker.finish(folder, summary)
    assert ids[0] == ids[1] and ids[0].startswith("my-run--")
    assert {run for run, _, _ in logged} == {ids[0]}
    assert len(list((folder / "wandb").glob(f"offline-run-*-{ids[0]}"))) >= 1
    steps = [step for _, step, data in logged if "trial/id" in data]
    assert steps == list(range(1, len(ended) + 1))
    best = [
        data["search/best_ne_gain_percent"]
        for _, _, data in logged
        if "search/best_ne_gain_percent" in data
    ]
    assert best == sorted(best, reverse=True)
    names = {name for _, _, data in logged for name in data}
    assert {"trials", "curves", "figures/front", "policy/entropy", "trial/ne"} <= names
    written = b"".join(p.read_bytes() for p in (folder / "wandb").rglob("*") if p.is_file())
    assert b"ne_gain_percent.mean" in written and b"LEAKED" not in written


def test_the_table_of_trials_has_round_and_rung_of_a_promotion(tmp_path, home, logged):
    with Ledger.open(tmp_path / "trials.db", IDENTITY) as ledger:
        ledger.propose("promotion", 3, [[3]], [7], 0.4, rung=2)
        start_tracking(settings("offline"), tmp_path, ledger, {}).finish(tmp_path, {})
    (table,) = [data["trials"] for _, _, data in logged if "trials" in data]
    (row,) = [dict(zip(table.columns, values, strict=True)) for values in table.data]
    assert (row["stage"], row["round"], row["rung"], row["seed"]) == ("promotion", 3, 2, 7)


def test_a_fresh_run_in_the_same_folder_is_another_run(tmp_path, home):
    ids = set()
    for name in ("a", "b"):
        with Ledger.open(tmp_path / name / "trials.db", IDENTITY) as ledger:
            tracker = start_tracking(settings("offline"), tmp_path / "same", ledger, {})
            tracker.finish(tmp_path / name, {})
            ids.add(ledger.get("wandb_id"))
    assert len(ids) == 2


def test_disabled_touches_nothing(tmp_path, home):
    with Ledger.open(tmp_path / "run" / "trials.db", IDENTITY) as ledger:
        tracker = start_tracking(settings("disabled"), tmp_path / "run", ledger, CONFIG)
        tracker.sync()
        tracker.finish(tmp_path / "run", {})
        assert tracker is OFF and ledger.get("wandb_id") is None
    assert not (tmp_path / "run" / "wandb").exists()


def test_wandb_that_cannot_start_stops_nothing(tmp_path, home, monkeypatch, caplog):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **options: (_ for _ in ()).throw(OSError("no room")))
    with Ledger.open(tmp_path / "run" / "trials.db", IDENTITY) as ledger:
        tracker = start_tracking(settings("offline"), tmp_path / "run", ledger, {})
    assert tracker is OFF
    assert "could not start (no room)" in caplog.text


def test_without_a_server_the_run_is_kept_offline(tmp_path, home, monkeypatch, caplog):
    import wandb

    modes, plain = [], wandb.init

    def init(**options):
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("timed out")
        return plain(**options)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with Ledger.open(tmp_path / "run" / "trials.db", IDENTITY) as ledger:
        tracker = start_tracking(settings("auto"), tmp_path / "run", ledger, {})
        tracker.finish(tmp_path / "run", {})
    assert modes == ["online", "offline"]
    assert "kept offline" in caplog.text


def test_a_mirror_that_breaks_is_only_reported(tmp_path, home, monkeypatch, caplog):
    folder = write_run(tmp_path / "run", num_trials=20, finished=False)
    monkeypatch.setattr(
        mirror, "trial_values", lambda *a: (_ for _ in ()).throw(ValueError("broken"))
    )
    with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
        tracker = start_tracking(settings("offline"), folder, ledger, {})
        with caplog.at_level(logging.WARNING):
            tracker.sync()
            tracker.finish(folder, {})
    assert caplog.text.count("broken; the ledger has everything") == 2


NETRC = "machine api.wandb.ai\n  login user\n  password none\n"


@pytest.mark.parametrize(
    ("mode", "environment", "netrc", "expected"),
    [
        ("auto", {}, "", "offline"),
        ("online", {}, "", "offline"),
        ("auto", {"WANDB_API_KEY": "x"}, "", "online"),
        ("auto", {}, NETRC, "online"),
        ("auto", {}, "machine other.host\n  login a\n  password b\n", "offline"),
        ("auto", {}, "not a netrc at all", "offline"),
        ("auto", {"WANDB_BASE_URL": "https://wandb.corp:8080"}, NETRC, "offline"),
        ("auto", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "x"}, "", "disabled"),
        ("auto", {"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, "", "offline"),
        ("offline", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "x"}, "", "offline"),
        ("disabled", {"WANDB_MODE": "online", "WANDB_API_KEY": "x"}, "", "disabled"),
        ("auto", {"WANDB_MODE": "dryrun", "WANDB_API_KEY": "x"}, "", "offline"),
        ("auto", {"WANDB_MODE": "run", "WANDB_API_KEY": "x"}, "", "online"),
        ("auto", {"WANDB_MODE": "run"}, "", "offline"),
        ("auto", {"WANDB_MODE": "shared", "WANDB_API_KEY": "x"}, "", "shared"),
        ("auto", {"WANDB_MODE": "shared"}, "", "offline"),
        ("auto", {"WANDB_MODE": " Offline", "WANDB_API_KEY": "x"}, "", "offline"),
        ("auto", {"WANDB_MODE": "", "WANDB_API_KEY": "x"}, "", "online"),
        ("auto", {"WANDB_DISABLED": "true", "WANDB_API_KEY": "x"}, "", "disabled"),
        ("dryrun", {"WANDB_API_KEY": "x"}, "", "offline"),
        ("auto", {"WANDB_IDENTITY_TOKEN_FILE": __file__}, "", "online"),
        ("auto", {"WANDB_IDENTITY_TOKEN_FILE": "/missing"}, "", "offline"),
        ("auto", {}, "default\n  login a\n  password b\n", "online"),
        (
            "auto",
            {"WANDB_BASE_URL": "https://own:8080"},
            "machine own:8080 login a password b",
            "online",
        ),
    ],
)
def test_online_needs_a_login(mode, environment, netrc, expected, tmp_path):
    (tmp_path / "netrc").write_text(netrc)
    environment = environment | {"NETRC": str(tmp_path / "netrc")}
    assert resolve_mode(mode, environment) == expected


def test_no_netrc_is_not_logged_in(tmp_path):
    assert not logged_in({"NETRC": str(tmp_path / "missing")})


def test_scrub_removes_secrets_and_nothing_else():
    clean = {
        "model": {
            "token_mixing": "choice(a,b)",
            "num_tokens": 3,
            "width": [8, 16],
            "keys": 2,
            "author": "a",
        },
        "name": None,
    }
    assert scrub(clean) == clean
    dirty = {
        "api_key": "s1",
        "wandb.api-key": "s2",
        "hf_token": "s3",
        "db": {"PASSWORD": "s4", "credentials": {"a": "s5"}},
        "urls": ["postgres://user:s6@host/db"],
        "client_secret": ["s7"],
        "access_key_id": "s8",
    }
    text = json.dumps(scrub(dirty))
    assert not [s for s in ("s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8") if s in text]
    assert "postgres://host/db" in text


def said(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "autorank.app.tracking"]


def track(folder, how=None, environment=None, monkeypatch: Any = None) -> Any:
    """Starts tracking and ends it: the W&B run as it was in between, or None, and the id in the ledger."""
    import wandb

    for name, value in (environment or {}).items():
        monkeypatch.setenv(name, value)
    with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
        tracker = start_tracking(how or TrackingConfig(), folder, ledger, CONFIG)
        run = None if tracker is OFF else wandb.run
        tracker.sync()
        found = (
            None
            if run is None
            else (run.id, run.project, run.entity, run.group, run.tags, run.name)
        )
        tracker.finish(folder, {})
        return found, ledger.get("wandb_id")


@pytest.mark.parametrize("place", ["wandb/settings", "CONFIG/settings"])
def test_settings_files_of_wandb_decide(place, home, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "autorank")
    path = home / place
    path.parent.mkdir(parents=True)
    path.write_text("[default]\nmode = disabled\n")
    assert track(home / "run", None, {"WANDB_API_KEY": "0" * 40}, monkeypatch) == (None, None)
    assert said(caplog) == ["W&B is off: W&B's settings say mode=disabled"]
    path.write_text("[default]\nmode = offline\nproject = ours\n")
    monkeypatch.setenv("WANDB_NOTES", "read anew")
    run, kept = track(home / "run")
    assert run[:2] == (kept, "ours")


def test_what_the_environment_names_is_used_where_our_settings_say_nothing(
    home, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "autorank")
    environment = {
        "WANDB_MODE": "dryrun",
        "WANDB_PROJECT": "theirs",
        "WANDB_ENTITY": "team",
        "WANDB_RUN_GROUP": "many",
        "WANDB_TAGS": "a,b",
        "WANDB_NAME": "first",
        "WANDB_RUN_ID": "abc",
        "WANDB_DIR": str(home / "elsewhere"),
    }
    run, kept = track(home / "run", None, environment, monkeypatch)
    assert run == ("abc", "theirs", "team", "many", ("a", "b"), "first") and kept == "abc"
    where = home / "elsewhere" / "wandb"
    assert said(caplog) == [
        f"W&B offline run abc of project team/theirs in {where}: WANDB_MODE=dryrun"
    ]
    assert list(where.glob("offline-run-*-abc"))
    written = TrackingConfig(mode="offline", project="own", group="g", tags=("t",))
    monkeypatch.setenv("WANDB_RUN_ID", "other")
    run, kept = track(home / "run", written)
    assert run == ("abc", "own", "team", "g", ("t",), "first")  # the ledger's run goes on
    run, kept = track(home / "another", written, {"WANDB_MODE": "disabled"}, monkeypatch)
    assert run[:2] == ("other", "own") == (kept, "own")


def test_a_sweep_says_which_run_it_is_and_a_new_one_is_told_everything(home, monkeypatch, logged):
    folder = write_run(home / "run", num_trials=20, finished=False)
    sweep = {
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "s",
        "WANDB_PROJECT": "swept",
        "WANDB_RUN_ID": "r1",
    }
    import wandb

    wandb.teardown()  # an agent starts a process for each run, and W&B reads its settings once in a process
    run, kept = track(folder, TrackingConfig(project="ignored"), sweep, monkeypatch)
    assert run[:2] == ("r1", "swept") and kept == "r1"
    first = [data for _, _, data in logged if "trial/id" in data]
    wandb.teardown()
    run, kept = track(folder, None, {"WANDB_RUN_ID": "r2"}, monkeypatch)
    assert run[0] == kept == "r2"
    assert [d for i, _, d in logged if "trial/id" in d and i == "r2"] == first
    wandb.teardown()  # no sweep of the tests that follow


def test_a_run_that_is_active_is_used_and_left_open_unless_our_settings_name_another(
    home, monkeypatch
):
    import wandb

    folder = write_run(home / "run", num_trials=20, finished=False)
    theirs = wandb.init(mode="offline", project="theirs", settings=wandb.Settings(silent=True))
    try:
        for _ in range(100):
            theirs.log({"loss": 1.0})  # its steps are ahead of ours
        run, kept = track(folder)
        assert run[0] == kept == theirs.id and wandb.run is theirs
        assert theirs.summary["trial/id"] and theirs.config["autorank"]["api_key"] == "[removed]"
        own = TrackingConfig(mode="offline", project="own")
        _, kept = track(folder, own)
        assert kept != theirs.id and wandb.run is theirs
        theirs.log({"loss": 2.0})
    finally:
        theirs.finish()
    theirs = wandb.init(mode="disabled")
    assert track(home / "third", None, {"WANDB_MODE": "offline"}, monkeypatch) == (None, None)
    theirs.finish()


def test_a_search_that_failed_in_this_process_does_not_keep_its_run(home, monkeypatch):
    with Ledger.open(home / "failed" / "trials.db", IDENTITY) as ledger:
        start_tracking(settings("offline"), home / "failed", ledger, {})
        before = ledger.get("wandb_id")
    run, kept = track(home / "next", settings("offline"))
    assert run[0] == kept != before


def test_a_server_that_does_not_answer_leaves_an_offline_run_of_the_same_id(
    home, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "autorank")
    monkeypatch.setitem(tracking.QUIET, "init_timeout", 1)
    nobody = {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "k" * 40,
        "WANDB_RELOGIN": "true",
    }
    run, kept = track(home / "run", None, nobody, monkeypatch)
    assert run is not None and run[0] == kept
    assert list((home / "run" / "wandb").glob(f"offline-run-*-{kept}"))
    assert "could not be reached" in said(caplog)[-1] and "k" * 40 not in caplog.text


def test_settings_that_wandb_refuses_are_named_without_secrets(home, monkeypatch, caplog):
    refused = {"WANDB_MODE": "nonsense", "WANDB_API_KEY": "s3cr3t" * 8}
    assert track(home / "run", None, refused, monkeypatch) == (None, None)
    assert (
        "Input should be 'online', 'offline'" in caplog.text
        and "WANDB_MODE=nonsense" in caplog.text
    )
    assert "s3cr3t" not in caplog.text and "s3cr3t" not in reason(
        ValueError(f"bad key {'s3cr3t' * 8}")
    )


def test_labels_say_experiment_searcher_data_and_what_differs(tmp_path, home):
    import wandb

    config = SearchConfig(name="sizes")
    by_name = labels_of(config, Path("runs/sizes"), "0a1b2c3d4e", Launch())
    assert (by_name.group, by_name.job_type, by_name.name) == ("sizes", "autorank", "sizes")
    of_experiment = labels_of(config, Path("runs/x"), "0a1b2c3d4e", Launch("kuairand"))
    assert of_experiment.group == "kuairand" and "kuairand" in of_experiment.tags
    assert {"movielens", "movielens-0a1b2c3d", "autorank"} <= set(of_experiment.tags)
    swept = Launch("kuairand", True, ("search.seed=1", "name=sizes"))
    in_sweep = labels_of(config, Path("runs/sizes-sweep/search.seed-1"), "d", swept)
    assert (in_sweep.group, in_sweep.name) == ("sizes", "search.seed-1")
    assert labels_of(config, Path("runs/sizes-sweep/7"), "d", swept).name == "search.seed-1"
    assert labels_of(config, Path("runs/7"), "d", Launch()).name == "sizes-seed-0"

    folder = tmp_path / "run"
    with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
        start_tracking(TrackingConfig(mode="offline"), folder, ledger, {}, of_experiment)
        run = wandb.run
        assert run is not None and run.group == "kuairand" and run.job_type == "autorank"
        assert set(run.tags or ()) == set(of_experiment.tags) and run.name == "x"
        run.finish()
    written = TrackingConfig(mode="offline", group="g", job_type="j", tags=("t",))
    with Ledger.open(tmp_path / "other" / "trials.db", IDENTITY) as ledger:
        start_tracking(written, tmp_path / "other", ledger, {}, of_experiment)
        run = wandb.run
        assert run is not None and (run.group, run.job_type, run.tags) == ("g", "j", ("t",))
        run.finish()


def test_every_value_that_is_logged_has_an_axis(tmp_path, home, logged):
    folder = write_run(tmp_path / "run")
    with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
        tracker = start_tracking(settings("offline"), folder, ledger, CONFIG)
        tracker.sync()
        tracker.finish(folder, {"predictor": {"heldout": {"tau_b": 0.5, "trials": 14}}})
    (own,) = [data for *_, data in logged if "predictor/heldout_tau_b" in data]
    assert own["predictor/heldout_tau_b"] == 0.5 and own["predictor/heldout_trials"] == 14
    (file,) = written(folder)
    defined = {m.glob_name or m.name: m.step_metric for m in messages(file, "metric")}
    axes = {glob: axis for glob, axis in defined.items() if axis}
    assert axes == mirror.AXES and set(axes.values()) <= set(defined)
    values = {name: set(data) for _, _, data in logged for name in data if "/" in name}
    for name, beside in values.items():
        if not name.startswith("figures/"):
            assert axes[f"{name.partition('/')[0]}/*"] in beside, name


def test_the_predictors_measures_are_those_of_all_proposals_so_far(tmp_path, home, logged):
    folder = write_run(tmp_path / "run")
    with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
        tracker = start_tracking(settings("offline"), folder, ledger, CONFIG)
        tracker.sync()
        rounds = [t for t in ledger.trials() if t.stage == "round"]
        tracker.finish(folder, {})
    told = [data for *_, data in logged if "predictor/round" in data]
    assert len(told) > 1
    for data in told:
        pairs = [
            (t.predicted[0], t.quality)
            for t in rounds
            if t.round <= data["predictor/round"] and t.predicted and t.quality is not None
        ]
        assert data["predictor/proposals"] == len(pairs)
        tau = scipy.stats.kendalltau(*zip(*pairs, strict=True)).statistic
        assert data["predictor/tau_b"] == pytest.approx(tau)


def test_a_job_of_a_sweep_is_called_by_what_the_others_have_otherwise(monkeypatch):
    register()
    job = ["experiment=toy", "searcher=paper", "predictor.members=3", "search.seed=1", "name=x"]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose("search", [*job, "hydra.mode=MULTIRUN"], return_hydra_config=True)
    with monkeypatch.context() as patch:
        patch.setattr(HydraConfig.instance(), "cfg", None)
        HydraConfig.instance().set_config(config)
        line = ["search.py", "-m", "experiment=toy", "searcher=paper", "predictor.members=1,3"]
        patch.setattr("sys.argv", [*line, "search.seed=0,1", "name=x"])
        assert launch() == Launch("toy", True, ("predictor.members=3", "search.seed=1"))
        patch.setattr("sys.argv", ["worker.py"])  # of a launcher
        assert launch().differ == tuple(job)
    assert launch() == Launch()
