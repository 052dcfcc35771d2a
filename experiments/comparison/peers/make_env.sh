#!/bin/sh
# The environment of a peer: sh experiments/comparison/peers/make_env.sh NAME, with NAME one of
#   default (Optuna GP and TPE, cmaes, SMAC3), neps, hebo, vizier, syne_tune, ax, bayesmark (problems; PYTHON=python3.7)
# It is created in .venv-peers-NAME, where experiments.comparison.bench_search looks for it; FOLDER=... puts it elsewhere.
set -eu
name=${1:-default}
here=$(dirname "$0")
lock=$here/environments/$name.txt
test -f "$lock" || { echo "no environment is called $name: $(cd "$here/environments" && echo ./*.txt)" >&2; exit 2; }
target=${FOLDER:-$here/../../..}/.venv-peers-$name
${PYTHON:-python3} -m venv "$target"
# A list names every package with its exact version, so pip resolves nothing and installs nothing else. PyTorch goes
# first and alone: it stays the listed build, without CUDA libraries.
if grep -q '^torch==' "$lock"; then
    "$target/bin/python" -m pip install --quiet --no-deps "$(grep '^torch==' "$lock")"
fi
"$target/bin/python" -m pip install --quiet --no-deps --requirement "$lock"
echo "$target: $("$target/bin/python" -m pip list --format=freeze | wc -l) packages"
