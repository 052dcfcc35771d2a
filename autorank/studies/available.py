"""What of a study can be done here: arms whose package is installed, and records whose data are there."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from autorank.studies.study import Study


class Available(NamedTuple):
    """A study without what cannot be done, and why."""

    study: Any  # a `Study` of the same type
    tables: list[Any]
    missing: list[str]


def available(study: Study, load: Callable[[str], Any]) -> Available:
    """Leaves out arms that need what is not installed, and of `Study.more_records` those that cannot be loaded.

    Args:
        study: whole.
        load: gives the `Table` of a benchmark's name.

    Raises:
        ValueError: the reference is one of these arms.
        FileNotFoundError: the data of one of `Study.records` are not there.
        ImportError: a package that one of them needs is not installed.
    """
    missing, arms = [], dict(study.arms)
    for name, arm in study.resolved().items():
        if needed := study.missing(arm):
            missing.append(f"the arm {name} needs {needed}")
            del arms[name]
    if study.reference not in arms:
        raise ValueError(f"study.reference={study.reference}: {missing[0]}, or write another arm")
    tables = [study.table(name, load) for name in study.records]
    for name in study.more_records:
        try:
            tables.append(study.table(name, load))
        except (FileNotFoundError, ImportError) as error:
            missing.append(f"the records {name} are not there: {error}")
    contrasts = {
        words: weights
        for words, weights in study.contrasts.items()
        if weights.keys() <= arms.keys()
    }
    return Available(dataclasses.replace(study, arms=arms, contrasts=contrasts), tables, missing)
