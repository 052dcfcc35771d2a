"""What of a study can be done here: arms whose package is installed, and records whose data are there."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

from autorank.studies.predictors import KINDS
from autorank.studies.records import Records
from autorank.studies.settings import Study


class Available(NamedTuple):
    """A study without what cannot be done, and why."""

    study: Study
    tables: list[Records]
    missing: list[str]


def available(study: Study, load: Callable[[str], Records]) -> Available:
    """Leaves out arms whose package is not installed, and of `Study.more_records` those that cannot be loaded.

    Raises:
        ValueError: the reference is one of these arms.
        FileNotFoundError: the data of one of `Study.records` are not there.
        ImportError: a package that one of them needs is not installed.
    """
    missing, arms = [], dict(study.arms)
    for name, arm in study.resolved().items():
        package = KINDS[arm.kind].traits["needs"]
        if package and not find_spec(package):
            missing.append(
                f"the arm {name} needs the package {package}: pip install 'autorank[studies]'"
            )
            del arms[name]
    if study.reference not in arms:
        raise ValueError(f"study.reference={study.reference}: {missing[0]}, or write another arm")
    tables = [load(name) for name in study.records]
    for name in study.more_records:
        try:
            tables.append(load(name))
        except (FileNotFoundError, ImportError) as error:
            missing.append(f"the records {name} are not there: {error}")
    contrasts = {
        words: weights
        for words, weights in study.contrasts.items()
        if weights.keys() <= arms.keys()
    }
    return Available(dataclasses.replace(study, arms=arms, contrasts=contrasts), tables, missing)
