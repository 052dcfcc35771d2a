"""Readers of logs. Importing the package fills `autorank.data.logs.base.SOURCES`."""

from autorank.data.logs import avazu as avazu
from autorank.data.logs import complete_journey as complete_journey
from autorank.data.logs import criteo as criteo
from autorank.data.logs import criteo_like_text as criteo_like_text
from autorank.data.logs import kuairand as kuairand
from autorank.data.logs import movielens as movielens
from autorank.data.logs import synthetic as synthetic
from autorank.data.logs import table as table
