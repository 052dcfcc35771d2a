"""`experiments.search` that also knows other packages' searchers: ``searcher=optuna-gp``. `--help` explains itself."""

from experiments.comparison.peers.in_search import register_peers

register_peers()  # before the schemas are made

from experiments.search import main  # noqa: E402

if __name__ == "__main__":
    main()
