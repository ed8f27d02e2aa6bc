# Each command does all the set-up on a fresh machine:
#   make demo    installs the device software into .venv and shows what it does (no microphone, no network at run time)
#   make test    installs everything into .venv-dev, then lint, types and the whole test suite
#   make server  adds the server to .venv and runs it on this machine; what it keeps is in fleet/
#   make faults  the tests that inject faults, with the full number of repetitions (about 40 minutes)

PYTHON ?= python3
EDGE   := .venv
DEV    := .venv-dev
BENCH  := exactness burst_cost noise teach_latency live_cost stream_soak recursion backbone_latency
BENCH_DATA := readouts open_set false_alarms class_incremental

.PHONY: demo run server test lint faults bench wheel clean

demo: $(EDGE)/.installed
	$(EDGE)/bin/soundkeep demo

run: $(EDGE)/.installed
	$(EDGE)/bin/soundkeep listen

server: $(EDGE)/.server
	$(EDGE)/bin/soundkeep-trainer serve --data fleet

test: lint
	$(DEV)/bin/python -m pytest -q

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy

faults: $(DEV)/.installed
	SOUNDKEEP_FAULTS=full $(DEV)/bin/python -m pytest -q -m faults --timeout 3600

bench: $(DEV)/.installed
	@for name in $(BENCH); do echo "== $$name"; $(DEV)/bin/python -m benchmarks.$$name || exit 1; done
	@if [ -z "$(DATA)" ]; then echo "left out for want of recordings: $(BENCH_DATA); run make bench DATA=DIR"; exit 0; fi; \
	for name in $(BENCH_DATA); do echo "== $$name"; \
	    $(DEV)/bin/python -m benchmarks.$$name --bundle benchmarks/bundles/evaluation --data "$(DATA)" || exit 1; done

wheel: $(DEV)/.installed
	$(DEV)/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf $(EDGE) $(DEV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis

define create_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "$(PYTHON) is too old; soundkeep needs Python 3.10 or later: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
	    || { echo "$(PYTHON) cannot make a virtual environment; install it first: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(1)
endef

$(EDGE)/.installed: pyproject.toml constraints.txt
	$(call create_venv,$(EDGE))
	$(EDGE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(EDGE)/.server: $(EDGE)/.installed
	$(EDGE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server]'
	@touch $@

$(DEV)/.installed: pyproject.toml constraints.txt
	$(call create_venv,$(DEV))
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
