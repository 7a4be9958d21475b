# Every target creates the environment that it needs, with the first Python 3.11 to 3.13 on the PATH.
# PYTHON=/path/to/python3.12 selects another Python, VENV=.venv312 another folder.
#
# make demo       build the default recipe on the miniature, train, evaluate, and print the results
# make experiment compare four recipes on the miniature, and one of them at several numbers of repeats
# make ui         start the Dagster UI on http://127.0.0.1:3000
# make test       run the test suite in two processes (JOBS=4: in four)
# make test-fast  the same without tests marked slow or e2e
# make lint       run ruff, mypy and shellcheck
# make schema     write the JSON Schemas of profiles, recipes and experiments, for editors
# make lock       update requirements.lock from pyproject.toml
# make weights    train the miniature's models again (DEVICE=cuda: on a GPU)
# make venv       create the environment only
# make clean      remove the environment and everything that the graph wrote
# make help       print these lines

PYTHON ?=
VENV   ?= .venv
DEVICE ?= cpu
JOBS   ?= 2
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
KENLM  := $(VENV)/.kenlm

# The project's path may contain spaces. VENV may not: make splits file names at spaces.
ifneq ($(words $(VENV)),1)
$(error VENV = '$(VENV)': give one path without spaces, e.g. VENV=.venv)
endif
# Not $(abspath): it splits its argument at spaces.
export PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(BIN):$(PATH)

# Tests and the graph start many processes; without bytecode each would compile again what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo experiment test test-fast lint ui lock schema weights clean venv help

demo: $(READY)
	dagster job execute -j third_place
	python -m bettersynth_assets.reports.summary third_place

experiment: $(READY)
	bettersynth experiment run miniature
	bettersynth experiment curve clip_top_k --repeats 1,4,16 --seeds 3

# Files in the order of conftest.py: those with the longest tests first.
PYTEST := python -m pytest --numprocesses "$(JOBS)" --dist loadfile --no-loadscope-reorder

test: $(READY) $(KENLM)
	$(PYTEST)

test-fast: $(READY) $(KENLM)
	$(PYTEST) -m "not slow and not e2e"

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy
	shellcheck .ci/run tools/*.sh toolkit/*.sh

ui: $(READY)
	dagster dev --host 127.0.0.1

lock: $(READY)
	sh tools/lock.sh

schema: $(READY)
	python -m bettersynth_assets.operators.schema

weights: $(READY)
	python -m bettersynth_assets.miniature.training.make_weights --device "$(DEVICE)"

clean:
	rm -rf "$(VENV)" data .dagster logs .logs_queue

venv: $(READY)

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(READY): requirements.lock pyproject.toml tools/install.sh tools/find_python.sh
	@NO_BYTECODE="$(PYTHONDONTWRITEBYTECODE)" sh tools/install.sh "$(VENV)" "$(PYTHON)"
	@touch "$@"

$(KENLM): $(READY) tools/kenlm.sh
	@sh tools/kenlm.sh "$(VENV)"
	@touch "$@"
