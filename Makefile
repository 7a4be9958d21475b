# Everything runs in an environment that make sets up itself, with the first Python 3.11 to 3.13 that it finds
# (PYTHON=/path/to/python3.12 names one, VENV=.venv312 another folder).
#
# make demo     the whole graph on the miniature, from nothing; then a table of what came out
# make test     the test suite, in two processes (JOBS=4: in four)
# make test-fast  the same without tests marked slow or e2e
# make lint     ruff, mypy and shellcheck
# make ui       the Dagster UI on http://127.0.0.1:3000
# make lock     refresh requirements.lock from pyproject.toml
# make schema   write the JSON Schemas of profiles and recipes, for editors
# make weights  train the miniature's models again (DEVICE=cuda where there is one)
# make clean    remove the environment and everything that the graph made

PYTHON ?=
VENV   ?= .venv
DEVICE ?= cpu
JOBS   ?= 2
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
KENLM  := $(VENV)/.kenlm

# The project's folder may have spaces in its path. Names that make handles itself may not: it splits them.
ifneq ($(words $(VENV)),1)
$(error VENV = '$(VENV)': give one path without spaces, e.g. VENV=.venv)
endif
# Not $(abspath): it splits its argument at spaces.
export PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(BIN):$(PATH)

.PHONY: demo test test-fast lint ui lock schema weights clean venv

demo: $(READY)
	dagster asset materialize --select '*'
	python -m bettersynth_assets.reports.summary

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

$(READY): requirements.lock pyproject.toml tools/install.sh tools/find_python.sh
	@sh tools/install.sh "$(VENV)" "$(PYTHON)"
	@touch "$@"

$(KENLM): $(READY) tools/kenlm.sh
	@sh tools/kenlm.sh "$(VENV)"
	@touch "$@"
