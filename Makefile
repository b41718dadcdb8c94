# Everything happens in .venv, made from pinned versions; a second run reuses it.
# Targets are relative, so a directory with spaces in its path is fine.
PYTHON ?= python3
MINUTES ?= 10
SEED ?=
SEEDS ?= 1000
FIRST ?= 1
INPUTS ?= 1000000
BENCH ?=
PYTHONS ?=
BEFORE ?=
ONLY ?=
TABLE ?=
JOBS ?= 3
UPGRADE ?=
PYTHONS ?=
RELEASES ?=
BIN := .venv/bin
SET_UP := .venv/.complete
# Tools that only look at what we depend on: what they need themselves stays apart.
SUPPLY := build/supply/bin
SUPPLY_SET_UP := build/supply/.complete
INSTALL := python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo picture test check unit integration acceptance fuzz soak simulate bench hosts
.PHONY: lock audit sbom package deb bundle test-packages clean test-bounds

help:
	@echo "make demo    the main job, live in the terminal (under 40 s), and its last screen in build/demo.svg"
	@echo "make picture a demo, and its last screen as the picture in the README"
	@echo "make test    all checks but benchmarks, JOBS=3 tests at a time"
	@echo "make soak    everything killed, stopped and broken at random, MINUTES=10 [SEED=...]"
	@echo "make fuzz    foreign values at every edge, INPUTS=1000000 for each decoder [SEED=1]"
	@echo "make simulate  years of a simulated host, SEEDS=1000"
	@echo "make bench   figures, beside their goals and other software (12 min; BENCH=--quick)"
	@echo "make test-bounds  the oldest and the newest of what we depend on [PYTHONS=\"3.11 3.13\"] [RELEASES=oldest]"
	@echo "make hosts   every init, file systems whose power is cut, other platforms (as root) [ONLY=part,...]"
	@echo "make lock    pin what we depend on anew, with hashes [UPGRADE=--upgrade for the newest]"
	@echo "make audit   ask PyPI for known vulnerabilities of what is pinned"
	@echo "make sbom    the list of what the daemon needs, in dist/ (CycloneDX)"
	@echo "make package wheel, source, pinned requirements and that list, in dist/"
	@echo "make deb     dist/geosched_VERSION_all.deb for Debian 13; elsewhere as root, with debootstrap"
	@echo "make bundle  one tar for hosts with Python 3.11 or later, installed without a network [ARCH=aarch64]"
	@echo "make test-packages  both, tried in trees of Debian 12 and 13 (as root)"
	@echo "make clean   remove what the others made"

$(SET_UP): pyproject.toml setup.cfg requirements/dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geosched needs Python 3.11 or later")'
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) --require-hashes --requirement requirements/dev.txt
	$(BIN)/$(INSTALL) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q ipc workers supervisor
	mkdir -p .types && ln -sfn .. .types/geosched
	touch $@

demo: $(SET_UP)
	$(BIN)/python tests/demo/demo.py --picture build/demo.svg

# A demo that ends wrong writes no picture, and leaves the one that is there.
picture: demo
	cp build/demo.svg docs/demo.svg

# Most tests wait more than they compute, so two share the host; some must have it alone.
# These follow whatever became of the others: one run tells of all that is broken.
test: $(SET_UP) check
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not alone"; shared=$$?; \
	$(BIN)/python -m pytest -m alone; alone=$$?; \
	echo "pytest left with $$shared, and with $$alone of tests alone"; exit $$((shared | alone))

check: $(SET_UP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p geosched.supervisor -p geosched.workers -p geosched.ipc

unit integration acceptance: $(SET_UP)
	$(BIN)/python -m pytest tests/$@

# A simulated host lives through a year with each seed; SEEDS=1 FIRST=32 lives one again.
simulate: $(SET_UP)
	GEOSCHED_SIMULATION_SEEDS=$(SEEDS) GEOSCHED_SIMULATION_FIRST=$(FIRST) $(BIN)/python -m pytest --timeout 0 tests/simulation/test_simulation.py

# The same seed tries the same inputs, on any host.
fuzz: $(SET_UP)
	GEOSCHED_FUZZ_INPUTS=$(INPUTS) GEOSCHED_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest --timeout 0 \
		--numprocesses $(JOBS) --dist worksteal tests/fuzz

# A seed in the output of one soak makes the next take the same steps.
soak: $(SET_UP)
	GEOSCHED_SOAK_MINUTES=$(MINUTES) GEOSCHED_SOAK_SEED=$(SEED) $(BIN)/python -m pytest tests/soak
	GEOSCHED_SUSPENDED_SECONDS=60 GEOSCHED_STALLED_SECONDS=20 $(BIN)/python -m pytest \
		--timeout 200 tests/integration/contract/test_crash_contract.py -k "suspended or stalls"

# BENCH="--quick" for 2 minutes; BENCH="--only c,d" for parts, the others stay in bench.json.
# Part j measures on each of PYTHONS="python3.11 python3.13", and BEFORE=DIR, a checkout, in turns.
bench: $(SET_UP)
	mkdir -p build
	PYTHONS="$(PYTHONS)" BEFORE="$(BEFORE)" $(BIN)/python tests/benchmarks/bench.py --json build/bench.json $(BENCH)
	$(BIN)/python tests/benchmarks/bench_daemondb.py
	$(BIN)/python tests/benchmarks/bench_flash.py
	$(BIN)/python tests/benchmarks/bench_backend.py
	$(BIN)/python tests/benchmarks/bench_fleet.py

# Each set of releases that pyproject.toml allows, on each of PYTHONS (versions or paths). What has
# no wheel is built, so a C and C++ compiler is needed.
test-bounds: $(SET_UP)
	$(BIN)/python tests/bounds/bounds.py --jobs $(JOBS) --pythons $(PYTHONS) --releases $(RELEASES)

# Minutes for each part; ONLY=help tells which there are. Needs debootstrap and systemd-nspawn, and
# says what else it lacks. Trees stay below $HOSTS_DIR (build/hosts); TABLE=docs/hosts.md keeps the table.
hosts: $(SET_UP)
	PYTHONPATH=tests $(BIN)/python -m hosts --only "$(ONLY)" $(if $(TABLE),--table "$(TABLE)")

$(SUPPLY_SET_UP): requirements/supply.txt
	$(PYTHON) -m venv build/supply
	$(SUPPLY)/$(INSTALL) --require-hashes --requirement requirements/supply.txt
	touch $@

# What is pinned stays as long as pyproject.toml allows it, unless UPGRADE says otherwise:
# --upgrade for all, "--upgrade-package NAME" for one. With the hashes of all files of a release,
# it is the same for each platform that there are wheels for, and for sources.
LOCK := uv pip compile --quiet --universal --generate-hashes --no-annotate --no-strip-extras --python-version 3.11 \
	--custom-compile-command "make lock" $(UPGRADE)
lock: $(SUPPLY_SET_UP)
	$(SUPPLY)/$(LOCK) pyproject.toml --output-file requirements/daemon.txt
	$(SUPPLY)/$(LOCK) pyproject.toml --extra tables --constraint requirements/daemon.txt \
		--output-file requirements/tables.txt
	$(SUPPLY)/$(LOCK) pyproject.toml --extra dev --constraint requirements/tables.txt \
		--output-file requirements/dev.txt
	$(SUPPLY)/$(LOCK) --group supply --output-file requirements/supply.txt

# Known vulnerabilities of every release that is pinned, as PyPI knows them. Without an answer it
# fails, as it does where there is one: nothing was looked at then.
audit: $(SUPPLY_SET_UP)
	$(SUPPLY)/python -P tests/support/audit.py $(SUPPLY)/pip-audit requirements/*.txt

# Of an environment with what the daemon needs and nothing else: it knows what needs what, and the
# licences; the hashes are in requirements/daemon.txt.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' __init__.py)
sbom: $(SUPPLY_SET_UP)
	rm -rf build/host && $(PYTHON) -m venv --without-pip build/host && mkdir -p dist
	$(SUPPLY)/$(subst -m pip,-m pip --python build/host/bin/python,$(INSTALL)) \
		--require-hashes --requirement requirements/daemon.txt
	sed 's/^dynamic = .*/version = "$(VERSION)"/' pyproject.toml > build/host/pyproject.toml
	$(SUPPLY)/cyclonedx-py environment --pyproject build/host/pyproject.toml \
		--mc-type application --output-reproducible --output-format JSON \
		--output-file dist/geosched-$(VERSION).cdx.json build/host/bin/python

package: $(SET_UP) sbom
	$(BIN)/python -m build --quiet --no-isolation --outdir dist .
	cp requirements/daemon.txt dist/geosched-$(VERSION).requirements.txt

deb:
	deploy/debian/build.sh

bundle: $(SET_UP)
	PYTHON="$(CURDIR)/$(BIN)/python" deploy/bundle/build.sh

# Minutes, and some 2 GB below build/trees, or where TREES says.
test-packages: $(SET_UP) deb bundle
	$(BIN)/python -m pytest --timeout 0 tests/packages

clean:
	rm -rf tests/peers/trpc/node_modules
	rm -rf tests/benchmarks/peers/.venv tests/benchmarks/peers/node_modules
	rm -rf .venv .types build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
