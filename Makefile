# Two commands do everything on a machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
# The user's own GPU build of torch: make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126"
TORCH ?= -c constraints.txt torch
BIN := .venv/bin
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# Files stay whole, in the order of tests/conftest.py: their fixtures are made once.
WHOLE_FILES := --dist loadfile --no-loadscope-reorder

# uv reads none of pip's settings: it gets from them where packages are, and how to reach that.
UV_SETTINGS := s/(\\n| )+/ /g; s/(=.) /\1/; /find-links=/s/ /,/g; s/^[^=]*[.]index-url=/export UV_DEFAULT_INDEX=/p; \
	s/^[^=]*extra-index-url=/export UV_INDEX_STRATEGY=unsafe-best-match UV_INDEX=/p; \
	s/^[^=]*find-links=/export UV_FIND_LINKS=/p; s/^[^=]*trusted-host=/export UV_INSECURE_HOST=/p; \
	s/^[^=]*[.]cert=/export SSL_CERT_FILE=/p; s/^[^=]*[.]proxy=/export ALL_PROXY=/p
INSTALL := eval "$$($(BIN)/pip config list | sort -r | sed -nE '$(UV_SETTINGS)')"; \
	$(BIN)/uv pip install --python $(BIN)/python

export OMP_WAIT_POLICY ?= PASSIVE
# The tests write some gigabytes and wait for the disk; in memory they do not, where there is enough of it.
export PYTEST_DEBUG_TEMPROOT ?= $(shell df -k --output=avail /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 > 9000000 { print "/dev/shm" }')
# Every process that the tests start would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-full test test-fast check settings docs ui clean

demo: demo/retune.yaml  ## Adapt, measure, promote, serve and index twenty modules' documentation, in the project demo/
	cd demo && ../$(BIN)/retune run --to reindex
	@echo; echo 'One search before and after:'
	@cd demo && ../$(BIN)/retune search "compute the median of numbers" -k 3 --compare base
	@echo; echo 'Next, in demo/: retune ui (or make ui). Your own documents:'
	@echo '  source .venv/bin/activate; retune init my-project --documents /path/to/documents; cd my-project'
	@echo '  retune run --to reindex'

demo-full: demo-full/retune.yaml  ## The same with the documentation of the whole standard library, in demo-full/
	cd demo-full && ../$(BIN)/retune run --to reindex
	@cd demo-full && ../$(BIN)/retune search "compute the median of numbers" -k 3 --compare base

demo/retune.yaml: | .venv/installed
	$(BIN)/retune init demo --profile demo >/dev/null

demo-full/retune.yaml: | .venv/installed
	$(BIN)/retune init demo-full >/dev/null

# There is one Docker engine, so its tests run in one process; they mostly wait, so they run beside the others.
test: .venv/installed-dev  ## All tests; those that need a GPU are left out where there is none
	@mkdir -p build; $(BIN)/pytest --durations=5 -m engine tests >build/engine-tests.log 2>&1 & engine=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 $(WHOLE_FILES) --durations=25 -m "not engine" tests; failed=$$?; \
	wait $$engine || failed=$$?; cat build/engine-tests.log; exit $$failed

test-fast: .venv/installed-dev  ## Tests of half a second and less; the others are marked `slow`
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(WHOLE_FILES) --hypothesis-profile=fast \
		-m "not slow and not engine and not gpu" tests

check: .venv/installed-dev  ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

settings: .venv/installed  ## docs/settings.md, from the code
	$(BIN)/python docs/write_settings.py

docs: .venv/installed-dev  ## The documentation as a site in build/docs; a link that leads nowhere is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo 'open build/docs/index.html'

ui: demo/retune.yaml  ## The Dagster UI of the demo, at http://127.0.0.1:3000
	cd demo && ../$(BIN)/retune ui

clean:  ## Forget the virtual environment; artifacts and history stay
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Retune needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/bin/uv: | .venv/bin/python
	@$(BIN)/pip install --quiet 'uv>=0.9'

# torch first: anything that wants it then finds it, and no other build is fetched.
.venv/torch: .venv/bin/python constraints.txt | .venv/bin/uv
	@echo 'Installing torch (some hundred megabytes) ...'
	@$(INSTALL) $(TORCH)
	@touch $@

.venv/installed: .venv/torch pyproject.toml
	@echo 'Installing Retune and its libraries ...'
	@$(INSTALL) -c constraints.txt -e '.[documents]'
	@touch $@

.venv/installed-dev: .venv/torch pyproject.toml
	@echo 'Installing Retune, its libraries and the tools of its tests ...'
	@$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@ .venv/installed
