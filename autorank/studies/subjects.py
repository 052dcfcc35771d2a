"""All subjects: importing this module registers them."""

from autorank.studies import fidelity_study as fidelity_study
from autorank.studies import predictor_study as predictor_study
from autorank.studies import search_study as search_study
from autorank.studies import sign_study as sign_study
from autorank.studies.study import SUBJECTS as SUBJECTS
