# Two commands do all the set-up on a fresh machine:
#   make demo    installs the device software into .venv and shows what it does (no microphone, no network at run time)
#   make test    installs everything into .venv-dev, then lint, types and the whole test suite

PYTHON ?= python3
EDGE   := .venv
DEV    := .venv-dev

.PHONY: demo run test lint bench wheel clean

demo: $(EDGE)/.installed
	$(EDGE)/bin/soundkeep demo

run: $(EDGE)/.installed
	$(EDGE)/bin/soundkeep listen

test: lint
	$(DEV)/bin/python -m pytest -q

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy

bench: $(DEV)/.installed
	@for module in $$($(DEV)/bin/python -c 'import pathlib; print(*sorted(p.stem for p in pathlib.Path("benchmarks").glob("[a-z]*.py") if "def main" in p.read_text()))'); do \
	    echo "== benchmarks.$$module"; $(DEV)/bin/python -m benchmarks.$$module || exit 1; done

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

$(DEV)/.installed: pyproject.toml constraints.txt
	$(call create_venv,$(DEV))
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
