# From nothing to a working package: `make setup`, then `make test` or `make demo`. `make help` lists all.

PYTHON      ?= python3
VENV        ?= .venv
# pip index for torch and torchvision, e.g. https://download.pytorch.org/whl/cpu; empty: pip's own.
TORCH_INDEX ?=
SOURCE      ?=
OUT         ?= demo_output
PYTEST_ARGS ?=
# How many processes run the tests; those of a file share one. One more than two cores: many tests wait for others.
TEST_PROCESSES ?= 3
COUNT_TO    ?=
BENCH_ARGS  ?=
DEMO_ARGS   ?=
COLCON_WS   ?= $(abspath $(VENV))/.upsnet_ros/colcon_ws

venv   := $(abspath $(VENV))
bin    := $(venv)/bin
pip    := $(bin)/python -m pip install --quiet --disable-pip-version-check
stamps := $(venv)/.upsnet_ros
in_parallel := -n $(TEST_PROCESSES) --dist loadfile
# The environment's prefix stands in for /opt/ros/<distro>.
on_wheels  := AMENT_PREFIX_PATH=$(venv) CMAKE_PREFIX_PATH=$(venv)
cmake_args := -DPython3_EXECUTABLE=$(bin)/python -DCMAKE_PROJECT_INCLUDE=$(CURDIR)/cmake/ros_wheels.cmake -DBUILD_TESTING=OFF
export PATH := $(bin):$(PATH)

.DEFAULT_GOAL := help
.PHONY: same-python help setup test test-long count gpu-test fault-test lint format demo bench colcon clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.12 VENV=.venv TORCH_INDEX=https://... SOURCE=my_frames/ OUT=demo_output"

setup: $(stamps)/package $(stamps)/messages $(stamps)/vision_msgs_built $(stamps)/tf2_msgs_built $(stamps)/dev  ## Make the environment: dependencies, messages, this package

# An environment keeps the interpreter that made it; say so rather than ignore another PYTHON.
ifneq ($(PYTHON),python3)
setup: | same-python
same-python: $(bin)/python
	@test "$$($(PYTHON) -V)" = "$$($< -V)" || \
	    { echo "error: $(VENV) is of $$($< -V), not $(PYTHON): name another VENV=, or remove it" >&2; exit 1; }
endif

# One stamp a step, so that a changed file repeats only what depends on it.
$(bin)/python:
	$(PYTHON) -m venv $(venv)

$(stamps)/torch: requirements/torch.txt | $(bin)/python
	@mkdir -p $(@D)
	$(pip) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r $<
	@touch $@

$(stamps)/base: requirements/base.txt requirements/ros.txt requirements/messages.txt $(stamps)/torch
	$(pip) $(patsubst %,-r %,$(filter %.txt,$^))
	@touch $@

$(stamps)/dev: requirements/dev.txt $(stamps)/base
	$(pip) -r $<
	@touch $@

$(stamps)/package: setup.py pyproject.toml $(stamps)/base
	$(pip) --no-deps --no-build-isolation --editable .
	@touch $@

# After the package: pip would take rosidl's egg-info for an older version of it, and remove both.
# Without an __init__.py the folder of messages is a portion that upsnet_ros/__init__.py finds.
$(stamps)/messages: CMakeLists.txt package.xml cmake/ros_wheels.cmake $(wildcard msg/*.msg msg/srv/* config/* launch/*) $(stamps)/package
	$(on_wheels) cmake -S . -B $(stamps)/build -G Ninja --log-level=WARNING $(cmake_args) \
	    -DCMAKE_INSTALL_PREFIX=$(venv) -DUPSNET_ROS_INSTALL_PYTHON=OFF
	cmake --build $(stamps)/build -- --quiet
	cmake --install $(stamps)/build > $(stamps)/install.log
	rm -rf $(venv)/lib/python3*/site-packages/upsnet_ros/__init__.py \
	       $(venv)/lib/python3*/site-packages/upsnet_ros-*.egg-info
	@touch $@

# Stand-ins for packages that no wheel carries, for the tests of their interfaces. Each in a prefix of its own: the
# environment goes without them, as a machine may.
stand_in_files = $(shell find test/messages/$(1) -type f)
$(stamps)/vision_msgs_built: $(call stand_in_files,vision_msgs)
$(stamps)/tf2_msgs_built: $(call stand_in_files,tf2_msgs)
$(stamps)/%_built: cmake/ros_wheels.cmake $(stamps)/base
	$(on_wheels) cmake -S test/messages/$* -B $(stamps)/build_$* -G Ninja --log-level=WARNING \
	    $(cmake_args) -DCMAKE_INSTALL_PREFIX=$(stamps)/$*
	cmake --build $(stamps)/build_$* -- --quiet
	cmake --install $(stamps)/build_$* > $(stamps)/install_$*.log
	@touch $@

test: setup lint  ## Set up, then lint, type check and run the whole test suite
	$(bin)/python -m pytest $(in_parallel) $(PYTEST_ARGS)

test-long: setup  ## The tests marked `long`, which take minutes each; run them nightly
	$(bin)/python -m pytest -m long $(PYTEST_ARGS)

count: setup  ## Count tests, assertions that ran and CPU seconds: COUNT_TO=tests.jsonl PYTEST_ARGS='-m long'
	COUNT_TO='$(COUNT_TO)' PYTHONPATH=test/support $(bin)/python -m pytest $(in_parallel) -p count_assertions \
	    -o enable_assertion_pass_hook=true $(PYTEST_ARGS)

fault-test: setup  ## Provoke every fault of docs/reliability.md, each as often as it says there
	$(bin)/python -m pytest test/faults -m fault $(PYTEST_ARGS)

# Without ROS, and with whatever torch is there: a machine with a GPU need not have more.
gpu-test:  ## Tests that need a GPU, of what needs no ROS: PYTHON=python3 with torch, triton and pytest
	$(firstword $(wildcard $(bin)/python) $(PYTHON)) -m pytest -m gpu test/ops test/inference test/network \
	    test/benchmark/test_cameras.py test/benchmark/test_clock.py test/benchmark/test_head.py $(PYTEST_ARGS)

lint: setup  ## ruff and mypy
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy upsnet_ros

format: setup  ## Let ruff rewrite the sources
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

demo: setup  ## Play frames to the node over DDS and record its answers: SOURCE=frames/ OUT=demo_output
	$(bin)/upsnet demo $(if $(SOURCE),'$(SOURCE)') --out '$(OUT)' $(DEMO_ARGS)

bench: setup  ## Time every stage, or measure the goals: BENCH_ARGS='goals --goals benchmarks/goals.json'
	$(bin)/upsnet bench $(or $(BENCH_ARGS),stages)

# A workspace as on a ROS machine, with the environment for an underlay. Empty `install`: colcon leaves
# files there that the sources no longer have.
colcon: setup  ## Build with colcon into COLCON_WS, and check what it installed
	mkdir -p $(COLCON_WS)/src && ln -sfn $(CURDIR) $(COLCON_WS)/src/upsnet_ros && rm -rf $(COLCON_WS)/install
	cd $(COLCON_WS) && $(on_wheels) colcon build --event-handlers console_direct- \
	    --cmake-args -G Ninja --log-level=WARNING $(cmake_args)
	bash -c '. $(COLCON_WS)/install/setup.bash && python -m pytest .ci/colcon_smoke.py'

clean:  ## Remove the environment and everything that was built; keeps demo_output
	rm -rf $(venv) build install log upsnet_ros.egg-info .pytest_cache .mypy_cache .ruff_cache
	find upsnet_ros test -name __pycache__ -prune -exec rm -rf {} +
