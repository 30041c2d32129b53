# Two commands do everything on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUNS ?= runs
DATA ?= data

.PHONY: help demo dashboard test lint format table3 staged docs dist clean

help: ## List what can be made
	@grep -E '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(INSTALLED) ## Train a small network on drawn images and watch what it leaks (offline, a few minutes)
	$(BIN)/leakage-audit fit --config configs/quickstart.yaml --trainer.default_root_dir $(RUNS)/quickstart

dashboard: $(INSTALLED) ## Show the demo's results in TensorBoard, until Ctrl-C
	$(BIN)/tensorboard --logdir $(RUNS)/quickstart --samples_per_plugin images=200 --load_fast=false

# TensorBoard's fast loader leaves out what each tag means.

# Reduced iterations and epochs by default; FULL=1 takes the paper's, which is hours of one core.
TABLE3 := $(RUNS)/table3$(if $(FULL),_full)
PRETRAINED := $(foreach name,cnn4_v1 cnn4_v2,$(TABLE3)/pretrained/$(name).ckpt)
comma := ,
space := $(subst x,,x x)

table3: $(PRETRAINED) ## The paper's Table 3, all ten rows: DATA=folder with CIFAR-10 images, FULL=1 for all iterations
	$(BIN)/leakage-audit compare --config configs/table3.yaml --data $(DATA) --scale $(if $(FULL),1,0.02) \
	  --pretrained $(subst $(space),$(comma),$(foreach path,$(PRETRAINED),$(basename $(notdir $(path)))=$(path))) \
	  --output $(TABLE3)/comparison

$(TABLE3)/pretrained/%.ckpt: | $(INSTALLED)
	$(BIN)/leakage-audit fit --config configs/pretrain_$*.yaml --trainer.default_root_dir $(TABLE3)/pretrained \
	  --data=$(if $(wildcard $(DATA)/cifar-10-batches-py),CIFAR10,ImageFolder) --data.root=$(DATA) \
	  --trainer.max_epochs=$(if $(FULL),300,20) --trainer.callbacks+=ModelCheckpoint \
	  --trainer.callbacks.dirpath=$(@D) --trainer.callbacks.filename=$*

test: $(INSTALLED) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# callbacks/ is installed as leakage_audit.callbacks: here it lies there, so that types and imports are followed into it.
STAGED := build/staged

staged:
	rm -rf $(STAGED) && mkdir -p $(STAGED)
	cp -R leakage_audit $(STAGED) && cp -R callbacks $(STAGED)/leakage_audit

lint: $(INSTALLED) staged ## Check style, docstrings, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(STAGED) $(BIN)/mypy
	cd $(STAGED) && $(abspath $(BIN))/lint-imports $(CURDIR)/pyproject.toml

docs: $(INSTALLED) staged ## Build the documentation's site into build/site, offline; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "The site: build/site/index.html, or with search: python3 -m http.server --directory build/site"

dist: $(INSTALLED) ## Build wheel and sdist into dist, and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

format: $(INSTALLED) ## Bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "Once, and for several minutes: pip brings torch and its libraries, up to 6 GB, into $(VENV)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
