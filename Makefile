# Everything a newcomer or a contributor types. `make demo` and `make test` set up what they need.
SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
MINUTES := 1
SECONDS := 1200
WORKERS := 3
# Side by side: each worker has namespaces of its own (tests/conftest.py).
PYTEST  = $(BIN)/python -m pytest -q --numprocesses=$(WORKERS) --dist=worksteal
PLUGIN := src/percale/cni/percale-cni

INSTALL  = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .

PROGRAMS = $$(scripts/kubernetes-binaries e2e)
# The tests that take nothing but a kube-apiserver.
APISERVER = tests/contract/test_store.py tests/cluster/test_store.py tests/cluster/test_objects.py

.PHONY: help setup setup-tests demo lint check test kubernetes setup-testbed test-apiserver test-cluster conformance release-check fresh fuzz soak bench docs image lock clean

help:                            ## what can be typed here
	@awk -F ' *## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.ready            ## system packages (when root), .venv, percale in it

$(VENV)/.ready: pyproject.toml requirements/dev.txt scripts/system-packages
	scripts/system-packages
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(INSTALL)
	touch $@

setup-tests: $(VENV)/.packages-of-tests $(VENV)/.ready $(PLUGIN)

$(PLUGIN): $(PLUGIN).c hatch_build.py $(VENV)/.packages-of-tests | $(VENV)/.ready
	$(INSTALL)

$(VENV)/.packages-of-tests: scripts/system-packages
	scripts/system-packages tests
	scripts/vm-kernel >/dev/null
	mkdir -p $(VENV)
	touch $@

demo: setup                      ## a three-node cluster, pods, real packets, two backends
	@scripts/demo

lint: setup-tests                ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint                      ## the above, and unit tests
	$(PYTEST) --hypothesis-profile=quick tests/unit tests/contract

test: setup-tests                ## all tests, with real packets, in namespaces of their own
	$(PYTEST)

kubernetes:                      ## builds Kubernetes' own programs and etcd, once, into ~/.cache/percale (PERCALE_CACHE)
	scripts/kubernetes-binaries

setup-testbed: setup-tests
	scripts/system-packages cluster
	$(MAKE) image
	scripts/kubernetes-binaries e2e

test-apiserver: setup-tests      ## the store and its commands with a real kube-apiserver, of `make kubernetes`: three minutes
	KUBERNETES_BINARIES=$$(scripts/kubernetes-binaries built) && export KUBERNETES_BINARIES && $(BIN)/python -m pytest -q $(APISERVER)

test-cluster: setup-testbed      ## tests with real kube-apiservers, etcd and kubelets, and of the image
	KUBERNETES_BINARIES="$(PROGRAMS)" $(BIN)/python -m pytest -q tests/cluster tests/contract/test_store.py

conformance: setup-testbed       ## Kubernetes' end-to-end specs of the network, written to docs/conformance.md: an hour and a half, or NAMES=short
	$(BIN)/python -m tests.cluster.testbed.conformance "$(PROGRAMS)" $(NAMES)

release-check: test test-cluster conformance soak  ## all that a release must pass: about two hours and a half

fresh: SUITE ?= bookworm
fresh:                           ## the above on a bare Debian, made for it and removed again: SUITE=bookworm or trixie
	scripts/fresh $(SUITE)

fuzz: setup-tests                ## policies over many more generated worlds, and odd documents for MINUTES=10; other ones each time
	$(BIN)/python -m pytest -q --hypothesis-profile=fuzz tests/kernel/test_policy_worlds.py tests/unit/policy tests/unit/render/policy/test_renderer.py
	end=$$((SECONDS + $(MINUTES) * 60)); while $(BIN)/python -m pytest -q --hypothesis-profile=fuzz tests/unit/inputs && ((SECONDS < end)); do :; done; ((SECONDS >= end))

soak: setup-tests                ## random changes of a cluster, its packets compared with the evaluator: SECONDS=1200, SEED=…
	$(BIN)/python -m tests.soak $(SECONDS) $(SEED)

bench: setup-tests               ## side by side with what Percale replaces, in one run: some ten minutes, or NAMES="peers matrix"
	$(BIN)/python -m bench $(NAMES)

docs: setup                      ## what is generated: the docs' output of commands, deploy/'s manifests
	$(BIN)/python -m docs.generate
	$(BIN)/python -m deploy.generate

image: setup                     ## dist/percale.tar, an OCI archive: ARCHITECTURE=amd64 (this machine's), arm64, …, or all
	mkdir -p dist
	$(BIN)/python scripts/image $(addprefix --architecture ,$(ARCHITECTURE)) $(addprefix --sources ,$(SOURCES)) dist/percale.tar

lock: pyproject.toml             ## hashed locks
	uv pip compile -q --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 pyproject.toml -o requirements/run.txt
	uv pip compile -q --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 --group dev pyproject.toml -o requirements/dev.txt

clean:                           ## what the above have made in this directory
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
