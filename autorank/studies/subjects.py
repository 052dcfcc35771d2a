"""All subjects: importing this module registers them."""

from typing import Any

from autorank.app.composition import record_with
from autorank.studies import cost_study as cost_study
from autorank.studies import fidelity_study as fidelity_study
from autorank.studies import predictor_study as predictor_study
from autorank.studies import search_study as search_study
from autorank.studies import sign_study as sign_study
from autorank.studies.study import SUBJECTS as SUBJECTS
from autorank.studies.study import Study, refuse_unknown


def study_of(given: dict[str, Any]) -> Study:
    """What a file of ``configs/study`` holds, or a composed config, as the record of its subject.

    Raises:
        ValueError: an unknown subject, a setting that it does not have, or a bad value.
    """
    record = SUBJECTS[given.get("subject", "predictor")].settings
    refuse_unknown("study", given, record)
    if isinstance(given.get("records"), str):
        given = given | {"records": [given["records"]]}
    return record_with(record, given, "study")
