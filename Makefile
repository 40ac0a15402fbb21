# Everything a person needs. `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# uv comes along if the machine has none: into .tools/, never outside the project.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
RUN := $(UV) run --no-sync
export PYTHONDONTWRITEBYTECODE :=
# Compiled once here, or every process that a test starts would compile torch and the others again
# where PYTHONDONTWRITEBYTECODE is set.
TEST_ENV := $(UV) sync --quiet --locked --compile-bytecode --extra edge --extra training --extra ray --extra tensorrt --group demo
# As many tests at a time as there are cores; `ARGS="-n 0"` runs them one by one, `ARGS=tests/unit` a part of them.
PYTEST := $(RUN) pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PROTOS := $(wildcard proto/hilum/v1/*.proto)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.tools/bin/uv:
	@.ci/get-uv .tools

.PHONY: demo
demo: $(UV) ## A real radiograph through a real agent; ONCE=1 ends by itself
	@$(UV) sync --quiet --locked --inexact --no-default-groups --extra edge --group demo
	@$(RUN) python -m edge_agent.cli.demo $(if $(ONCE),--once)

.PHONY: setup
setup: $(UV) ## Everything that tests and development need
	@$(TEST_ENV)

.PHONY: check
check: setup lint ## The quick half of `test`: lint, and every test that is not slow
	$(PYTEST) -m "not slow" $(ARGS)

.PHONY: test
test: setup lint ## Lint, then all tests
	$(PYTEST) $(ARGS)

.PHONY: lint
lint: setup ## ruff, mypy, import rules
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

.PHONY: format
format: setup ## Let ruff mend what it can
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

.PHONY: bench
bench: setup ## Speed, side by side in one run
	$(RUN) python -m tests.bench $(ARGS)

.PHONY: campaign
campaign: setup ## The long fault-injection runs
	$(RUN) python -m tests.campaign $(ARGS)

.PHONY: proto
proto: setup ## Remake the protocol modules from the .proto files
	$(RUN) python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto $(PROTOS)
