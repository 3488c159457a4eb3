# Each target prepares what it needs: `make run` alone works in an empty clone.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A pip configured with --find-links (a local CPU build of PyTorch, say) has it honoured by uv too.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

# Bytecode is made here, once: a Python that is told not to write any (as in many images) compiles 3000 files at each start, for 5 s.
export UV_COMPILE_BYTECODE ?= 1

# uv comes from the PATH, or is installed beside the environment when there is none.
UV_HOME := .uv
UV := $(shell command -v uv 2>/dev/null || echo $(UV_HOME)/bin/uv)

# A sound server, PortAudio, and terminals and an editor that tests drive without a screen; programs that speak.
RIG := pulseaudio pulseaudio-utils pulseaudio-module-jack jackd2 libportaudio2 libasound2-plugins tmux xvfb xdotool xclip openbox l3afpad systemd kitty libgl1-mesa-dri fonts-dejavu imagemagick \
	espeak-ng flite festival festvox-kallpc16k festvox-us-slt-hts
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

MARKERS ?= not slow and not long and not install
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv sync data run test test-slow test-long test-processors test-install rig lint type bench docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-15s %s\n", $$1, $$2}'

$(UV_HOME)/bin/uv:
	$(PYTHON) -m venv $(UV_HOME)
	$(UV_HOME)/bin/python -m pip install --quiet 'uv>=0.9'

venv: $(UV) ## make the virtual environment
	@test -x $(BIN)/python || $(UV) venv --quiet $(VENV)

# What was installed by hand, a tracker say, stays. PyTorch's CPU builds come from its own site, which uv knows by the name of the backend;
# they are chosen in the environment that installs, not in the project, and `uv run` leaves them alone with UV_NO_SYNC=1.
sync: venv ## install both packages with all they can use (UV_TORCH_BACKEND=cpu: without CUDA)
ifdef UV_TORCH_BACKEND
	$(UV) pip install --quiet --python $(BIN)/python --editable '.[dev,elan,export,serve,sweep,synthesis,trackers]' --editable packages/lora-cli
else
	$(UV) sync --quiet --inexact
endif

data: sync ## fetch the quickstart's speech: telephone prompts and general English
	$(BIN)/moonshine-lora data --output data/quickstart

run: data ## measure, train, measure again, accept or reject: outputs/quickstart
	$(BIN)/python -m lora.runners.experiment --config configs/quickstart.toml --overwrite

test: sync ## run the quick tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m '$(MARKERS)'

test-slow: MARKERS = slow and not long
test-slow: test ## run the end-to-end tests of minutes

test-long: MARKERS = long
test-long: test ## run the tests of hours: every fault that tests must see, 20,000 damaged inputs, AN4 in every runtime

test-processors: sync ## run the numeric tests as on other processors: each instruction set, both kinds of products
	$(BIN)/python tests/processors.py

test-install: sync ## put the wheels into empty environments of Python 3.11 to 3.14, and do the whole flow there
	$(BIN)/python -m pytest -m install -s tests/test_installed.py

rig: ## install what tests need on Debian and Ubuntu: a virtual microphone, terminals, programs that speak (asks for root)
	$(SUDO) apt-get update --quiet
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $(RIG)

lint: sync ## check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

type: sync ## check types
	$(BIN)/mypy

bench: sync ## time ours against the peers; prints a table of ratios
	$(BIN)/python benchmarks/run.py

# In an environment of its own, which UV_NO_SYNC would leave empty.
docs: $(UV) ## build the documentation as a site: outputs/site/index.html
	env -u UV_NO_SYNC $(UV) run --quiet --isolated --only-group docs sphinx-build --quiet --fail-on-warning --conf-dir docs/site . outputs/site

clean: ## remove environment, data and outputs
	rm -rf $(VENV) $(UV_HOME) data outputs
