"""Puts everything odd into one Optuna study in a database, which one process after another continues.

    python -m experiments.fuzz.optuna_study --seed 0                    # 200 trials, 8 processes, a minute or two
    python -m experiments.fuzz.optuna_study --seed 3 --searcher autorank

Between and in place of plain trials: enqueued values of any type, trials of other jobs, failed, pruned, infinite and
never finished ones, ranges that are widened and narrowed, parameters that come and go. Each ask must be answered, and
each proposal lie in the distribution that the job suggests at that moment. The study must still learn: its best trial
is compared with the median of five random studies of as many plain trials.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna  # pyright: ignore[reportMissingImports]
from optuna.distributions import (  # pyright: ignore[reportMissingImports]
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial  # pyright: ignore[reportMissingImports]

from autorank.integrations.optuna import AutoRankSampler
from experiments.machine import ROOT

NAME = "fuzz"
KINDS = ("a", "b", None)
NAN = math.nan
ODD_VALUES = (
    "oops",
    "0.5",
    "",
    [1],
    {"a": 1},
    None,
    NAN,
    math.inf,
    -1,
    0,
    1,
    1.0,
    True,
    2.5,
    100,
    10**30,
    "a",
    [[8], [8, 8]],
)
ODD_DISTRIBUTIONS: tuple[tuple[BaseDistribution, Any], ...] = (
    (FloatDistribution(0, 1), 0.25),
    (FloatDistribution(-5, 5), -4.0),
    (FloatDistribution(1e-5, 10, log=True), 7.0),
    (IntDistribution(0, 100, step=20), 40),
    (IntDistribution(1, 10**12, log=True), 10**9),
    (CategoricalDistribution(["a", "z"]), "z"),
    (CategoricalDistribution([NAN, 0.0]), NAN),
    (CategoricalDistribution([True, 1]), 1),
)
ENDS = ("ask",) * 12 + (
    "enqueue",
    "enqueue",
    "enqueue_odd",
    "enqueue_odd",
    "fail",
    "prune",
    "infinite",
    "huge",
    "nan",
    "leave",
    "foreign",
    "foreign",
    "waiting",
)


def space_of(number: int) -> dict[str, BaseDistribution]:
    """The distributions of the job's trial of a number: edited twice, and some ranges differ every time."""
    low = 1e-4 if number < 60 else 1e-5
    space: dict[str, BaseDistribution] = {
        "rate": FloatDistribution(low, 1.0 if number < 120 else 0.5, log=True),
        "decay": FloatDistribution(0.0, 1.0, step=None if number < 90 else 0.05),
        "depth": IntDistribution(1, 8),
        "kind": CategoricalDistribution(KINDS),
        "flag": CategoricalDistribution([True, 1, False]),
        "fill": CategoricalDistribution([NAN, 0.0]),
        "wobbles": IntDistribution(0, 3 + number % 5),
    }
    if number < 50:
        return space | {"dropped": FloatDistribution(0, 1)}
    return space | {"added": IntDistribution(0, 30)}


def regret(values: Mapping[str, Any]) -> float:
    """The planted truth, 0 at best."""
    u = 1 + math.log10(values["rate"]) / 5
    return (
        8 * (u - 0.45) ** 2
        + 4 * (values["decay"] - 0.7) ** 2
        + 0.2 * abs(values["depth"] - 5)
        + 0.5 * (values["kind"] != "b")
        + 0.3 * (values["flag"] is not False)
        + 0.2 * (not math.isnan(values["fill"]))
    )


def suggest(trial: optuna.Trial, number: int) -> dict[str, Any]:
    """All parameters, each checked against its distribution; one more where the kind is ``b``."""
    fixed = trial._fixed_params
    values = {}
    space = space_of(number)
    for name in [*space, "extra"]:
        if name == "extra" and values["kind"] != "b":
            continue
        d = space.get(name, IntDistribution(1, 4))
        values[name] = value = trial._suggest(name, d)
        if name in fixed:
            continue
        if isinstance(d, CategoricalDistribution):
            legal = any(type(c) is type(value) and (c == value or c != c) for c in d.choices)  # noqa: PLR0124
        else:
            legal = d._contains(value) and isinstance(
                value, int if isinstance(d, IntDistribution) else float
            )
        assert legal, f"trial {number}: {name}={value!r} was proposed, which is not in {d}"
    return values


def of_another_range(d: BaseDistribution) -> tuple[BaseDistribution, Any]:
    """A distribution that a database takes for the same parameter, and a value that the job may not have."""
    if isinstance(d, CategoricalDistribution):
        return d, d.choices[0]
    if isinstance(d, IntDistribution):
        return IntDistribution(-100, 100, step=3), 2
    return (
        (FloatDistribution(1e-9, 1e3, log=True), 2e-3)
        if isinstance(d, FloatDistribution) and d.log
        else (FloatDistribution(-2, 3, step=0.5), -1.5)
    )


def one_trial(study: optuna.Study, rng: np.random.Generator, event: str) -> None:
    """One event: a trial of any kind, or something that is added to the study."""

    def pick(things: Any) -> Any:
        return things[int(rng.integers(len(things)))]

    names = [*space_of(0), "extra", "unknown"]
    if event == "foreign":
        chosen = {n: of_another_range(d) for n, d in space_of(0).items() if rng.random() < 0.7}
        if not chosen or rng.random() < 0.3:
            chosen[pick(names)] = pick(ODD_DISTRIBUTIONS)
        state = pick(
            (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)
        )
        trial = create_trial(
            state=state,
            value=pick((3.0, 5.0, math.inf)) if state == TrialState.COMPLETE else None,
            params={n: v for n, (_, v) in chosen.items()},
            distributions={n: d for n, (d, _) in chosen.items()},
            user_attrs={"note": "x" * int(rng.integers(20_000))},
        )
        try:
            study.add_trial(trial)
        except ValueError:
            pass  # a database refuses other kinds of distributions by itself
    if event == "waiting":
        study.enqueue_trial({pick(names): pick(ODD_VALUES)}, user_attrs={"odd": True})
        return
    if event.startswith("enqueue"):
        values = {"depth": 2, "kind": None, "decay": 0.3}
        odd = event == "enqueue_odd"
        study.enqueue_trial(
            values | ({pick(names): pick(ODD_VALUES)} if odd else {}), user_attrs={"odd": odd}
        )
    trial = study.ask()
    try:
        values = suggest(trial, trial.number)
        value = regret(values)
    except (ValueError, TypeError, OverflowError):
        # Optuna's or the job's own answer to an odd value that was enqueued, and to nothing else.
        if not trial.user_attrs.get("odd"):
            raise
        study.tell(trial, state=TrialState.FAIL)
        return
    if event == "leave":
        return
    if event == "prune":
        trial.report(NAN if rng.random() < 0.5 else value, 1)
        study.tell(trial, state=TrialState.PRUNED)
    elif event in ("fail", "nan"):
        study.tell(
            trial,
            NAN if event == "nan" else None,
            state=TrialState.FAIL if event == "fail" else None,
        )
    else:
        odd = {"infinite": math.inf, "huge": 1e300}
        study.tell(trial, odd.get(event, value))


def session(storage: str, searcher: str, seed: int, first: int, last: int) -> None:
    """Loads the study and adds events from number ``first`` on, until it has ``last`` trials."""
    study = optuna.create_study(
        study_name=NAME,
        storage=storage,
        load_if_exists=True,
        sampler=AutoRankSampler(searcher, seed=seed),
    )
    number = first
    while len(study.get_trials(deepcopy=False)) < last:
        rng = np.random.default_rng([seed, number])
        one_trial(study, rng, ENDS[int(rng.integers(len(ENDS)))] if number else "ask")
        number += 1
    study._storage.remove_session()


def plain_regrets(study: optuna.Study) -> list[float]:
    """Regrets of the trials that the sampler proposed and that ended well."""
    return [
        regret(t.params)
        for t in study.trials
        if t.state == TrialState.COMPLETE
        and "autorank:asked" in t.system_attrs
        and "fixed_params" not in t.system_attrs
        and t.values[0] < 1e9
    ]


def random_regrets(seed: int, num_trials: int) -> list[float]:
    """Regrets of the same job under Optuna's random sampler, with nothing odd."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [regret(suggest(study.ask(), number)) for number in range(num_trials)]


def main() -> None:
    """Runs the sessions, or one of them as a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--searcher", default="evolution")
    parser.add_argument(
        "--session", help=argparse.SUPPRESS
    )  # storage,first,last: one of the processes
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if options.session:
        storage, first, last = options.session.rsplit(",", 2)
        session(storage, options.searcher, options.seed, int(first), int(last))
        return
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{Path(folder) / 'study.db'}"
        ends = np.linspace(0, options.trials, options.sessions + 1).astype(int).tolist()
        for first, last in zip(ends[:-1], ends[1:], strict=True):
            given = ["--seed", str(options.seed), "--searcher", options.searcher]
            part = ["--session", f"{storage},{first},{last}"]
            again = [sys.executable, "-m", "experiments.fuzz.optuna_study"]
            subprocess.run([*again, *given, *part], cwd=ROOT, check=True)
        study = optuna.load_study(study_name=NAME, storage=storage)
        ours = plain_regrets(study)
        states = {s.name: sum(t.state == s for t in study.trials) for s in TrialState}
    others = sorted(min(random_regrets(seed, len(ours))) for seed in range(5))
    late = float(np.mean(ours[-len(ours) // 3 :]))
    print(f"{len(study.trials)} trials {states}, every ask answered, every proposal legal")
    print(
        f"best of {len(ours)} plain trials {min(ours):.3f}, last third {late:.3f}; random's best {others[2]:.3f}"
    )
    assert min(ours) < others[2], "the study learned nothing"


if __name__ == "__main__":
    main()
