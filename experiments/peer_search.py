"""`experiments.search` that also knows other packages' searchers: ``searcher=optuna-gp``. `--help` explains itself."""

import experiments.comparison.peers.in_search  # noqa: F401  (registers them before the schemas are made)
from experiments.search import main

if __name__ == "__main__":
    main()
