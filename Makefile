# Two commands for users: `make reproduce` and `make test`. FLAVOUR=cpu|cuda overrides the detected one; SCALE=NAME takes
# config/NAME.yaml in place of the scale that packaging/scale.sh chooses.
SHELL := /bin/bash
FLAVOUR ?=
SCALE ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: reproduce test test-install test-matrix test-slurm test-storage test-browser test-faults lint env lock report site notebooks bundle h200

env:
	@packaging/setup.sh $(FLAVOUR)

# The lock is the operating system's: it vanishes with a killed run, so a stale Snakemake lock can be cleared safely. PREFLIGHT=no
# starts a run that `swiftkv preflight` says this machine lacks something for.
PREFLIGHT ?= yes
reproduce: env
	@mkdir -p .snakemake
	@exec 9>.snakemake/reproduce.lock; flock --nonblock 9 || { echo "make reproduce: already running here" >&2; exit 1; }; \
	config=$$(packaging/scale.sh "$(SCALE)" "$(FLAVOUR)") || exit 2; \
	if [ "$(PREFLIGHT)" != no ]; then swiftkv preflight --config "$$config" || { echo "make reproduce: PREFLIGHT=no starts it anyway" >&2; exit 1; }; fi; \
	if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ]; then snakemake --unlock --quiet all; fi; \
	snakemake --cores all --configfile "$$config" $(SNAKEMAKE_ARGS)

# Files of tests side by side, one thread each: most of them wait for processes that they start. In the order of tests/conftest.py,
# which begins with the longest.
test: env
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# What conda has pip do with environment.yml, in a fresh environment (minutes, 5 GB on disk until it ends).
test-install: env
	python -m pytest -s tests/operations/install/environment_by_pip.py

# The vLLM tests against other releases, an environment for each (minutes, 4 GB on disk each, less where hard links work), and
# `pip install` of the project beside one.
MATRIX ?= 0.27.1 0.28.0 0.29.0 0.30.0 0.31.0 --wheels 0.26.0 0.33.0 --beside 0.31.0
test-matrix: env
	packaging/test_matrix.sh $(MATRIX)

# The reduced pipeline on a real one-node Slurm with pretended GPUs (minutes; root, Debian's Slurm and munge: docs/cluster.md).
test-slurm: env
	@packaging/add_extra.sh slurm
	python -m pytest -s tests/operations/slurm/pipeline_on_slurm.py

# The reduced pipeline with all its files in S3-compatible storage, which rclone serves from a directory (minutes).
test-storage: env
	@packaging/add_extra.sh kubernetes
	@packaging/add_extra.sh storage
	python -m pytest -s tests/operations/storage/pipeline_on_s3.py

# Light stages killed at random moments, on full disks, twice at once: after each the same command ends alike (minutes).
test-faults: env
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} python -m pytest -s tests/faults/every_point.py

# Notebooks, page and report in headless Chromium without network (Debian's chromium and chromium-driver; screenshots in .local/browser).
test-browser: env
	@packaging/add_extra.sh browser
	python -m pytest -s tests/operations/browser/pages_in_chromium.py

lint: env
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint

report: env
	snakemake --cores all --report results/report.zip
	swiftkv label-report results/report.zip

# One page: all published runs, or with SCALE=NAME the run of that scale.
site: env
	swiftkv site results/$(or $(SCALE),reference)

notebooks: env
	jupyter lab notebooks

# For a CUDA machine without network (docs/gpu.md), e.g. make bundle BUNDLE="h200 --data /my/mirror".
BUNDLE ?= h200
bundle: env
	packaging/bundle.sh $(BUNDLE)

# The stages of a GPU machine without Snakemake; SCALE=h100 for 80 GB.
h200:
	benchmarks/h200.sh $(or $(SCALE),h200) $(STAGES)

lock:
	packaging/lock.sh
