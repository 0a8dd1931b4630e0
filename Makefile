# One page of commands. `make help` prints them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

NODES ?= 1
CLUSTER ?= own
PY := .venv/bin/python
# .tools holds uv, and Go where the machine has none; the environment's own commands come first.
export PATH := $(CURDIR)/.venv/bin:$(PATH):$(CURDIR)/.tools/bin
LOCAL := python3 deploy/local/cluster.py
SOURCES := operator engine tests deploy benchmarks

.PHONY: help
help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

.venv/.ready: pyproject.toml uv.lock deploy/dev/bootstrap.sh deploy/images/cpu_torch.py $(wildcard engine/headway_engine/native/*.[ch] engine/headway_engine/native/build.py)
	@deploy/dev/bootstrap.sh

.PHONY: venv
venv: .venv/.ready ## make the development environment

# --- use it ----------------------------------------------------------------------------------------------------------
.PHONY: demo demo-down
demo: .venv/.ready ## a cluster, the chart, a fleet, a streamed answer, then a load that scales and retunes it
	@$(PY) deploy/demo/demo.py --cluster $(CLUSTER) --nodes $(NODES)
demo-down: ## stop everything that `make demo` started
	@$(LOCAL) --provider $(CLUSTER) down

.PHONY: cluster cluster-down cluster-status kubeconfig
cluster: .venv/.ready ## start the local Kubernetes (NODES=1|2, CLUSTER=own|kind|current)
	@$(LOCAL) --provider $(CLUSTER) up --nodes $(NODES)
cluster-down: ## stop it and leave nothing behind
	@$(LOCAL) --provider $(CLUSTER) down
cluster-status: ## what runs
	@$(LOCAL) --provider $(CLUSTER) status
kubeconfig: ## print the path of the cluster's kubeconfig
	@$(LOCAL) --provider $(CLUSTER) kubeconfig

.PHONY: images
images: ## build both images and publish them to the cluster's registry
	@python3 deploy/images/build.py --provider $(CLUSTER)

# --- measuring -------------------------------------------------------------------------------------------------------
.PHONY: bench-engine bench-control
bench-engine: .venv/.ready ## measure the engine on the CPU: beside transformers, and batch sizes and modes; some minutes
	@$(PY) -m headway_engine.bench --case cpu --save
	@$(PY) -m headway_engine.bench --case batching --save

bench-control: .venv/.ready ## every autoscaling policy on real traces in the simulator: table, JSON lines, plot; under 10 minutes
	@nice $(PY) benchmarks/control.py

# --- generated files -------------------------------------------------------------------------------------------------
.PHONY: proto crd docs manifests
proto: .venv/.ready ## engine.proto -> stubs
	@$(PY) -m grpc_tools.protoc -I engine --python_out=engine --mypy_out=engine --grpc_python_out=engine \
	  --mypy_grpc_out=engine engine/headway_rpc/engine.proto 2>/dev/null
crd: .venv/.ready ## models -> CRD
	@$(PY) -m headway_operator.api.crd > deploy/crd/llmdeployments.yaml
docs: .venv/.ready ## models and commands -> docs/reference
	@$(PY) -m headway_operator.api.reference > docs/reference/llmdeployment.md
	@$(PY) deploy/commands.py > docs/reference/commands.md

manifests: ## chart -> plain manifests and the chart's table of values
	@python3 deploy/manifests.py

.PHONY: prometheus
prometheus: ## build Prometheus and promtool, which test the alerts; some minutes once
	@$(LOCAL) prometheus

# --- check it --------------------------------------------------------------------------------------------------------
.PHONY: format check test-unit test-integration test-cluster test
format: .venv/.ready ## format and fix
	@ruff format $(SOURCES) && ruff check --fix $(SOURCES)
check: .venv/.ready ## format, lint, types, import contracts
	@ruff format --check $(SOURCES)
	@ruff check $(SOURCES)
	@mypy
	@lint-imports
test-unit: .venv/.ready ## unit, property, architecture and chart tests (no cluster)
	@$(PY) -m pytest tests -m "not apiserver and not cluster and not cluster_lifecycle"
test-integration: .venv/.ready ## against a real API server on loopback
	@# One process and one API server for each part: an operator that watches everything must not meet other parts' fleets.
	@for part in tests/integration/api tests/integration/test_cli_fleet.py tests/integration/operator/test_{kube_client,life,process,crashes}.py; do \
	  $(PY) -m pytest -q $$part; done
test-cluster: .venv/.ready prometheus ## end to end on the real cluster: starts it, builds the images, stops it
	@$(PY) deploy/demo/testbed.py
test: check prometheus test-unit test-integration test-cluster ## all of the above
