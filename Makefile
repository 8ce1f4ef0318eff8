# Each target builds what it needs in .venv with nothing but python3 and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test slow check format clean

demo: $(STAMP)  ## protect real portraits and say where the pictures are
	$(BIN)/python -m facedeid.demo demo-out

test: $(STAMP)  ## the default suite and the static checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: test slow  ## everything

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch is pinned: an unpinned one brings gigabytes of CUDA packages along.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,onnx,heic,demo]'
	touch $(STAMP)

clean:
	rm -rf .venv build dist demo-out .pytest_cache .mypy_cache .ruff_cache
