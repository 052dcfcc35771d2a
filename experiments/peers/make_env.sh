#!/bin/sh
# The environment of the peers that live together (Optuna GP and TPE, cmaes, SMAC3): sh experiments/peers/make_env.sh
# Then: .venv-peers/bin/python experiments/bench_search.py searchers=[optuna-gp] tasks='mixed/*'
set -eu
python3 -m venv .venv-peers
.venv-peers/bin/python -m pip install --quiet torch==2.13.0 # first, so that no other range picks another build
.venv-peers/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]' optuna==5.0.0 cmaes==0.13.1 smac==2.4.1
