"""Who proposes the next trials. Importing the package fills `autorank.searchers.base.SEARCHERS`."""

from autorank.searchers import autorank as autorank
from autorank.searchers import evolution as evolution
from autorank.searchers import paper as paper
from autorank.searchers import random as random
from autorank.searchers import reinforce as reinforce
