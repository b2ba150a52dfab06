# Two commands for users: `make reproduce` and `make test`. FLAVOUR=cpu|cuda overrides the detected one.
SHELL := /bin/bash
FLAVOUR ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: reproduce test lint env lock report smoke

env:
	@MAKE_GOAL=$(firstword $(MAKECMDGOALS)) workflow/setup.sh $(FLAVOUR)

# The lock is the operating system's: it vanishes with a killed run, so a stale Snakemake lock can be cleared safely.
reproduce: env
	@mkdir -p .snakemake
	@exec 9>.snakemake/reproduce.lock; flock --nonblock 9 || { echo "make reproduce: already running here" >&2; exit 1; }; \
	if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ]; then snakemake --unlock --quiet all; fi; \
	snakemake --cores all $(SNAKEMAKE_ARGS)

test: env
	python -m pytest $(PYTEST_ARGS)

lint: env
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint

report: env
	snakemake --cores all --report results/report.zip

lock:
	workflow/lock.sh
