# make search: the main job, from nothing.  make test: tests, lint and types.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= dev

.PHONY: setup search test lint types peers bayesmark

# One mark for each set of extras: another set is installed beside what is there.
READY := .venv/ready-$(EXTRAS)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "autorank needs Python >= 3.11: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "no venv: install your system's python3-venv package"; exit 1; }
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@# To bytecode on all cores; pip would use one. A file that does not compile is of no interest: some are templates.
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(CURDIR)/.venv/lib || true
	@touch $@

search: setup
	$(BIN)/python -m experiments.search

# Types are checked beside the tests; their findings, if any, are printed after the tests' own closing line.
test: setup lint
	@$(BIN)/pyright > .venv/types.txt 2>&1 & types=$$!; \
	$(BIN)/python -m pytest -q -n 3 --dist worksteal; tests=$$?; \
	wait $$types; types=$$?; [ $$types = 0 ] || cat .venv/types.txt; exit $$((tests || types))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

# PyTorch and FuxiCTR in an environment of their own, for experiments/speed. torch goes first: FuxiCTR would install another one.
peers:
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check fuxictr==2.3.10

# The packages that the NeurIPS 2020 challenge ran, for experiments.comparison.bench_bayesmark: they need Python 3.6 or 3.7.
OLD_PYTHON ?= python3.7
bayesmark:
	@$(OLD_PYTHON) -c 'import sys; sys.exit(not (3, 6) <= sys.version_info < (3, 8))' || { echo "the challenge's packages need Python 3.6 or 3.7: make OLD_PYTHON=python3.7 bayesmark"; exit 1; }
	PYTHON=$(OLD_PYTHON) sh experiments/comparison/peers/make_env.sh bayesmark
