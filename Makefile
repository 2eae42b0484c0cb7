# Two commands are enough on a fresh machine with Python (3.11 or newer) and make:
#   make train                                       the quickstart: sample text to a checked Hugging Face folder
#   make train RECIPE=configs/mine.yaml ARGS="seed=1"
#   make test                                        the fast tests; `make test-slow` the slow ones, `make lint`
#   make plan RECIPE=configs/mine.yaml TOPOLOGY=v5e:8x8   does it fit that TPU slice, by the TPU's compiler; no TPU needed
# Everything lives in .venv; what is already there is left as it is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

RECIPE ?= configs/quickstart.yaml
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python

# The first Python that is new enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# What to compute on: a TPU shows its chips as /dev/accel* (v2 to v4) or as PCI functions of vendor 0x1ae0 under
# /dev/vfio (v5 and later); a Cloud TPU VM also says so in its environment. `make train MACHINE=cpu` overrides.
MACHINE ?= $(shell \
	if compgen -G '/dev/accel[0-9]*' >/dev/null; then echo tpu; \
	elif compgen -G '/dev/vfio/[0-9]*' >/dev/null && \
		{ [ -n "$${TPU_ACCELERATOR_TYPE:-}$${TPU_NAME:-}$${TPU_WORKER_ID:-}" ] || \
		grep -qsE '^0x(005e|0062|0063|006f|0076)$$' $$(grep -lsx 0x1ae0 /sys/bus/pci/devices/*/vendor \
			| sed 's/vendor$$/device/') /dev/null; }; then echo tpu; \
	elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then echo gpu; \
	else echo cpu; fi)

# A stamp per set of dependencies, named after what they depend on.
HASH := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
PLAN_STAMP := $(VENV)/.installed-plan-$(HASH)
TRAIN_STAMP := $(VENV)/.installed-$(MACHINE)-$(HASH)
TEST_STAMP := $(VENV)/.installed-test-$(HASH)

.PHONY: help train plan test test-slow lint schema plans clean
help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

train: $(TRAIN_STAMP)
	@$(RUN) train.py $(RECIPE) $(ARGS)

TOPOLOGY ?= v5e:4x4
plan: $(PLAN_STAMP)
	@$(RUN) -m tpu.plan $(RECIPE) --topology $(TOPOLOGY) $(ARGS)

# A file's tests stay with one process, so that what they share is made once.
PARALLEL := -n auto --maxprocesses=4 --dist=loadfile

test: $(TEST_STAMP)
	@$(RUN) -m pytest -q $(PARALLEL) -m "not slow" $(ARGS)

test-slow: $(TEST_STAMP)
	@$(RUN) -m pytest -q -m slow $(ARGS)

lint: $(TEST_STAMP)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check --quiet .
	@$(RUN) -m pyright

# JSON schemas for editors: in VS Code or any editor with the YAML language server, map them to configs/*.yaml.
schema: $(TRAIN_STAMP)
	@mkdir -p build
	@for kind in train prepare; do \
		$(RUN) -m configs.schema $$kind > build/$$kind.schema.part; \
		mv build/$$kind.schema.part build/$$kind.schema.json; echo build/$$kind.schema.json; done

# Compiles every row of tpu/compiled.yaml for its TPU slice and writes tpu/compiled.json: an hour or two on two cores.
plans: $(TEST_STAMP)
	@$(RUN) -m tpu.compiled --all

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis

# The environment itself; a half-made one (no stamp) is made anew.
$(VENV)/.made:
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; fi
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || { echo "error: $(PYTHON) -m venv failed;" \
		"on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.installed-cpu-$(HASH): EXTRA :=
$(VENV)/.installed-gpu-$(HASH): EXTRA := [gpu]
$(VENV)/.installed-tpu-$(HASH): EXTRA := [tpu]
$(PLAN_STAMP): EXTRA := [plan]
$(TEST_STAMP): EXTRA := [test]
$(VENV)/.installed-%-$(HASH): | $(VENV)/.made
	@echo "installing lectern$(EXTRA) into $(VENV) (a few minutes, once)"
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".$(EXTRA)"
	@touch $@
