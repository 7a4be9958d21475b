# make demo     the whole graph on the miniature, from nothing; then a table of what came out
# make test     the test suite, in two processes (JOBS=4: in four)
# make lint     ruff, mypy and shellcheck
# make ui       the Dagster UI on http://127.0.0.1:3000
# make lock     refresh requirements.lock from pyproject.toml
# make schema  write the JSON Schemas of profiles and recipes, for editors
# make weights  train the miniature's models again (DEVICE=cuda where there is one)
# make clean    remove the environment and everything that the graph made

PYTHON ?= python3.11
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

.PHONY: demo test lint ui lock schema weights clean venv

demo: $(READY)
	dagster asset materialize --select '*'
	python -m bettersynth_assets.reports.summary

test: $(READY) $(KENLM)
	python -m pytest --numprocesses "$(JOBS)" --dist loadfile

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
	python -m bettersynth_assets.config.schema

weights: $(READY)
	python -m bettersynth_assets.miniature.training.make_weights --device "$(DEVICE)"

clean:
	rm -rf "$(VENV)" data .dagster logs .logs_queue

venv: $(READY)

$(READY): requirements.lock pyproject.toml tools/install.sh
	sh tools/install.sh "$(PYTHON)" "$(VENV)"
	touch "$@"

# Compiled in about a minute. Where it cannot be, perplexity_filter is refused by name and its test is skipped.
$(KENLM): $(READY)
	uv pip install --quiet --python "$(BIN)/python" "$$(grep '^kenlm==' requirements.lock)" || \
	    echo 'kenlm was not built (it needs g++ and the headers of Python): perplexity_filter cannot run' >&2
	touch "$@"
