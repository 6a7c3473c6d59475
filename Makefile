# make demo       set everything up, register a made-up patient to a template, write pictures to demo/
# make test       set everything up and run all tests
# make lint       ruff and mypy
# make benchmark  time and memory of the official network with random weights (needs 4 GB of disk)
# make clean      remove what the others made
#
# Everything is installed into .venv. Variables: PYTHON (which Python), TORCH (which PyTorch release), CPU=1 (CPU
# build of PyTorch even beside a GPU), ARGS (further arguments of demo, pytest or the benchmark).
VENV ?= .venv
ARGS ?=
SETUP = PYTHON="$(PYTHON)" TORCH="$(TORCH)" CPU="$(CPU)" sh Utilities/setup_venv.sh $(VENV)

.PHONY: demo test lint benchmark clean

demo: $(VENV)/installed
	$(VENV)/bin/synthmorph demo demo $(ARGS)

test: $(VENV)/installed-for-tests
	QT_QPA_PLATFORM=offscreen $(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/installed-for-tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

benchmark: $(VENV)/installed-for-tests
	$(VENV)/bin/python benchmarks/official_network.py $(ARGS)

$(VENV)/installed: pyproject.toml Utilities/setup_venv.sh
	$(SETUP) demo
	@touch $@

$(VENV)/installed-for-tests: pyproject.toml Utilities/setup_venv.sh
	$(SETUP) demo dev host
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache
