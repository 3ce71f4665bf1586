# Everything sets itself up: Python >= 3.10, a C++ compiler, make and the network are enough. A sourced ROS 2 is used.
PYTHON ?= python3
ROS := $(or $(ROS_DISTRO),wheels)
RUN := .venv/run-$(ROS).stamp
DEV := .venv/dev-$(ROS).stamp
BUILT := install/built.stamp
SOURCES := $(shell find metro_ros launch config msg resource -type f -not -path '*/__pycache__/*') package.xml setup.py setup.cfg
ENV := . scripts/env.sh

.PHONY: demo test lint bench venv build clean

demo: $(BUILT)  ## play a clip through the node over real ROS 2; results in demo_output/
	@$(ENV) && python -m metro_ros.cli demo

bench: $(DEV) $(BUILT)  ## engines, the node, memory: bench_output/; BENCH="--quick --only node" chooses
	@$(ENV) && python -m benchmarks $(BENCH)

test: $(DEV) $(BUILT)  ## all tests; PYTEST="-k name" chooses
	@$(ENV) && scripts/test.sh $(PYTEST)

lint: $(DEV)  ## style, types, package metadata
	@$(ENV) && ruff check . && ruff format --check . && mypy && python scripts/check_package.py

venv: $(DEV) $(BUILT)  ## the full development environment, with torch

build: $(BUILT)  ## messages and package, into install/

clean:
	rm -rf .venv build install log demo_output bench_output *.egg-info

$(RUN): requirements/run.txt requirements/ros.txt | scripts/venv.py
	$(PYTHON) scripts/venv.py run
	@touch $@

$(DEV): requirements/dev.txt $(RUN)
	$(PYTHON) scripts/venv.py dev
	@touch $@

$(BUILT): $(RUN) $(SOURCES)
	@$(ENV) && scripts/build.sh
	@touch $@
