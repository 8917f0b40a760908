# Two commands matter: `make demo` and `make test`. Both make .venv and install on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export QUESTION

.PHONY: demo test check bench clean

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## ask the bundled model questions about a world geography database
	@$(BIN)/tenuto demo $${QUESTION:+"$$QUESTION"}

test: $(VENV)/.test  ## all tests, in parallel
	$(BIN)/python -m pytest -q -n auto

check: $(VENV)/.test  ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test  ## every benchmark, full size; results are stored
	for name in overhead text_to_sql rag traces functions cache_index engine_steps engine_parity engine_cpu real_engine; do \
	  $(BIN)/python -m benchmarks.$$name --json benchmarks/results/$$name.json || exit 1; done
	$(BIN)/python -m benchmarks.report

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
