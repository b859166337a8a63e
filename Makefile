# Every target sets up what it needs. Nothing outside this folder is written but pip's and BentoML's caches.
VENV := .venv
PY := $(VENV)/bin/python
PORT ?= 3000
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

PINS = tmp=$$(mktemp -d) && cp pyproject.toml README.md LICENSE $$tmp/ && mkdir $$tmp/service && cp -r service/understudy $$tmp/service/ && \
	cd $$tmp && uv lock --quiet

.PHONY: pins
pins: ## write requirements/*.txt anew from pyproject.toml (exact versions and hashes, no addresses; needs uv)
	@out=$$PWD/requirements && mkdir -p $$out && $(PINS) && \
	uv export --quiet --frozen --no-emit-project --no-dev --extra postgres --extra objects --no-header > $$out/runtime.txt && \
	uv export --quiet --frozen --no-emit-project --all-groups --extra models --extra loadtest --extra postgres --extra objects --no-header > $$out/dev.txt && \
	echo 'checkov>=3.3,<4' | uv pip compile --quiet --generate-hashes --no-header --no-annotate --universal --python-version 3.11 - -o $$out/policy.txt && \
	rm -rf $$tmp && ! grep -n '://' $$out/*.txt

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@echo "Setting up $(VENV) (once; about a minute)"
	@python3 -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v.major}.{v.minor}")'
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## make the virtual environment

.PHONY: models
models: $(VENV)/.ready ## build the example models from real flights (a minute; skips what is intact)
	@$(PY) -m models

.PHONY: serve
serve: models ## serve the example rollout on 127.0.0.1:3000 (PORT=) until Ctrl-C
	@exec $(VENV)/bin/understudy serve --port $(PORT)

.PHONY: format
format: $(VENV)/.ready ## format the code and mend what can be mended
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

.PHONY: lint
lint: $(VENV)/.ready ## check formatting, style, types and the import contract
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

.PHONY: check
check: export PYTHONDONTWRITEBYTECODE =
check: models ## before a commit: format, lint, types, import contract and unit tests (under two minutes on two cores)
	@echo "[  0 %] format" && $(VENV)/bin/ruff format --check --quiet .
	@echo "[  2 %] lint" && $(VENV)/bin/ruff check --quiet .
	@echo "[  5 %] import contract" && { $(VENV)/bin/lint-imports >/dev/null || $(VENV)/bin/lint-imports; }
	@echo "[ 10 %] types" && $(VENV)/bin/mypy
	@echo "[ 30 %] unit tests" && $(PY) -m pytest tests/unit -m "not slow" -n $$(nproc)
	@echo "[100 %] \`make test\` runs everything else"

.PHONY: chromium
chromium: ## install Debian's Chromium for the dashboard's tests, where that can be done (as root, with apt)
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; then :; else \
	echo "NO CHROMIUM: it could not be installed here, and the dashboard's tests are skipped without it" >&2; fi

.PHONY: prometheus
prometheus: ## install Debian's Prometheus for the tests of rules and metrics, where that starts no service (root, apt, no systemd)
	@command -v prometheus >/dev/null || \
	if [ "$$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && command -v apt-get >/dev/null && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends prometheus >/dev/null; then :; else \
	echo "NO PROMETHEUS: it was not installed here, and the tests of rules and metrics are skipped without it" >&2; fi

.PHONY: haproxy
haproxy: ## install Debian's HAProxy for the tests of several replicas, where that starts no service (root, apt, no systemd)
	@test -n "$$(PATH=$$PATH:/usr/sbin command -v haproxy)" || \
	if [ "$$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && command -v apt-get >/dev/null && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends haproxy >/dev/null; then :; else \
	echo "NO HAPROXY: it was not installed here, and the tests that need a load balancer are skipped without it" >&2; fi

.PHONY: screenshots
screenshots: models chromium ## play the three demo stories and take the documentation's pictures of the dashboard
	@$(PY) docs/screenshots.py

# First the tests that may run side by side, the fastest first; then, one after the other, those that measure how fast a
# service is. `TESTS=tests/integration make test` runs one folder.
TESTS ?= tests
PYTEST = $(PY) -m pytest $(TESTS)

# Bytecode is kept, whatever the environment says: otherwise every process that a test starts compiles the whole service.
test test-all: export PYTHONDONTWRITEBYTECODE =

.PHONY: test
test: lint models chromium prometheus haproxy ## everything that needs no GPU: lint, and all tests but the full-size ones (about 20 minutes on two cores)
	@$(PYTEST) -m "not slow and not alone" -n auto
	@$(PYTEST) -m "not slow and alone" || [ $$? = 5 ]  # 5: this part has none

.PHONY: test-all
test-all: lint models chromium prometheus haproxy ## also the full-size statistics and soak tests
	@$(PYTEST) -m "not alone" -n auto
	@$(PYTEST) -m alone || [ $$? = 5 ]

.PHONY: bench
bench: models ## this service beside its peers, in one run, into loadtests/results/ (needs wrk)
	@$(PY) -m loadtests.bench

.PHONY: bench-v2
bench-v2: $(VENV)/.ready ## a thousand rows of raw tensors beside a bare server and the bare runtime (needs wrk)
	@$(PY) -m loadtests.bench_v2

DEVICE ?= cuda
.PHONY: gpu-check
gpu-check: ## what this machine's GPU does with the service, into loadtests/results/ (under 8 minutes; DEVICE=cpu rehearses it)
	@python=$(PY); test -x $$python || python=python3; PYTHONPATH=service $$python -m loadtests.gpu_check --device $(DEVICE) $(ARGS)

URL ?= http://127.0.0.1:$(PORT)
.PHONY: load
load: models ## the launch load test of the service at URL=, or of one of its own; exits by the verdict (ARGS= for its options)
	@$(VENV)/bin/understudy loadtest --url $(URL) $(ARGS)

.PHONY: manifests
manifests: $(VENV)/.ready .venv-policy/.ready ## render k8s/, validate it strictly against Kubernetes 1.29 to 1.34, scan its policies
	@$(PY) k8s/render.py
	@$(PY) -m pytest tests/integration/k8s
	@.venv-policy/bin/checkov --directory k8s/rendered --framework kubernetes --compact --quiet --skip-download

# In an environment of its own: the scanner wants other versions of what the service uses.
.venv-policy/.ready: requirements/policy.txt
	@echo "Setting up .venv-policy (once; half a minute)"
	@test -x .venv-policy/bin/python || python3 -m venv .venv-policy
	@.venv-policy/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/policy.txt
	@touch $@

.PHONY: clean
clean: ## remove what the other targets made, the store included
	rm -rf $(VENV) .venv-policy .understudy .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		models/flight_poc models/flight_candidate models/flight_broken models/cache

.PHONY: docs
docs: $(VENV)/.ready ## write what is written from the code: docs/reference/README.md, k8s/monitoring, the state machine
	@$(PY) docs/generate.py && $(PY) docs/structure.py >/dev/null && $(VENV)/bin/understudy monitoring -o k8s/monitoring >/dev/null && $(PY) docs/state_machine.py

.PHONY: zoo
zoo: $(VENV)/.ready ## play all models of the zoo and write docs/reference/models.md (ARGS= for --only, --jobs, --seed, --in-process)
	@$(PY) -m tests.zoo $(ARGS)

STORY ?= july
.PHONY: demo
demo: models ## a month of real flights with late labels, judged (STORY=july, broken or october)
	@$(VENV)/bin/understudy demo --story $(STORY)
