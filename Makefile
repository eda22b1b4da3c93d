PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable  # compiled when imported:
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check docs docs-blocks docs-site dist bench paper clean

demo: .venv/installed  ## an unknown handwritten digit, and defects of generated parts with maps: out/demo/report.html, out/demo/parts/report.html
	$(BIN)/knowngood demo --out out/demo

test: .venv/installed-dev  ## the whole test-suite; KNOWNGOOD_DATA=FOLDER adds the tests on real data sets
	$(BIN)/python -m pytest -n auto

check: .venv/installed-dev  ## lint, format, types, security; known weaknesses of dependencies where there is a network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src
	@if $(BIN)/python -c 'import urllib.request as u; u.urlopen("https://pypi.org", timeout=5)' 2>/dev/null; \
	  then $(BIN)/pip-audit --skip-editable; else echo "pip-audit: no network, left out"; fi

docs: .venv/installed-docs  ## run the code blocks of the pages and build the site: out/docs/index.html; SCREENSHOTS=1 draws these anew
	$(if $(SCREENSHOTS),$(BIN)/python docs/screenshots.py)
	$(MAKE) --no-print-directory --jobs 2 docs-blocks docs-site
	$(BIN)/python docs/check_site.py out/docs

docs-blocks: .venv/installed-docs
	$(BIN)/python docs/run_blocks.py --jobs 2

docs-site: .venv/installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs out/docs

dist: .venv/bin/python  ## wheel and sdist; the wheel in a bare environment; SBOM and licences of what it brings
	$(PYTHON) tools/dist.py

bench: .venv/installed  ## speed of training and scoring against bare torch and the machine's matmul rate
	$(BIN)/python -m benchmarks speed

paper: .venv/installed  ## the dCVAE paper's methods side by side
	$(BIN)/python -m benchmarks paper

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) ".[dev]"
	@touch .venv/installed $@

.venv/installed-docs: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) ".[docs,formats,align,export,serve,line]"
	@touch .venv/installed $@

clean:
	rm -rf .venv out .pytest_cache .ruff_cache .hypothesis
