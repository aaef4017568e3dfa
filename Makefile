# Two commands: `make demo` runs the whole line once, `make test` proves it. Both set up everything they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO := runs/demo
METHODS := linear vpt-deep apt
TARGETS := export/targets/onnxruntime-cpu.toml export/targets/tensorrt-rtx.toml
# The recipes' 20 epochs are cut so that the demo ends within six minutes; train.tune runs them all.
SHORT := --set optim.epochs=8 --set optim.warmup_epochs=1
export PATH := $(abspath $(BIN)):$(PATH)

# Shows a command, runs it, and says how long it took.
define step
@echo "$$ $(1)"; start=$$(date +%s); $(1) && echo "  [$$(( $$(date +%s) - start )) s]"
endef

.PHONY: setup demo league ablations test check proofs clean
.DEFAULT_GOAL := demo

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e ".[train,export,bench,onnxruntime,openvino,tensorrt-rtx,decord,dev]"
	touch $(READY)

# The tutorial: clips -> prompts -> ONNX -> compiled FP16 engine -> measured -> predicted.
demo: $(READY)
	@date +%s > .demo-start.tmp
	$(call step,python -m train.clips make $(DEMO)/clips --seed 0)
	$(call step,python -m train.tune train/recipes/demo-linear.toml --out $(DEMO)/linear --resume)
	$(call step,python -m train.tune train/recipes/demo-vpt-deep.toml $(SHORT) --out $(DEMO)/vpt-deep --resume --compare $(DEMO)/linear)
	$(call step,python -m train.tune train/recipes/demo-apt.toml $(SHORT) --out $(DEMO)/apt --resume --compare $(DEMO)/linear)
	$(foreach m,$(METHODS),$(call export,$(m)))
	$(call step,python -m bench.run bench/suites/demo.toml --out $(DEMO))
	$(call step,apt-edge predict $(DEMO)/apt/export/onnxruntime-cpu $(DEMO)/clips/val/0000-slide-right.mp4)
	$(call step,python -m bench.demo $(DEMO))
	$(call step,python -m bench.report $(DEMO))
	@echo "demo finished in $$(( $$(date +%s) - $$(cat .demo-start.tmp) )) s"; rm .demo-start.tmp

define export
$(call step,python -m export.to_onnx $(DEMO)/$(1)/pack.safetensors --clips $(DEMO)/clips/val.csv --target $(TARGETS))
$(call step,python -m export.to_engine $(DEMO)/$(1)/export/tensorrt-rtx)

endef

# Every tuning method over three seeds, then the paper's ablations: about forty minutes, and twenty-five more, on two
# cores.
JOBS ?= 2
league: $(READY)
	python -m train.league train/recipes/demo-league.toml --jobs $(JOBS) --publish bench/results/league-demo

ablations: $(READY)
	python -m train.sweep train/recipes/ablations/*.toml --jobs $(JOBS) --publish bench/results/ablations

# One thread a process: those of PyTorch wait for each other by spinning, which is slow on cores that others use too.
TESTS := OMP_NUM_THREADS=1 python -m pytest -n $(JOBS) --dist loadfile --durations=15

test: check

check: $(READY)
	ruff format --check .
	ruff check .
	mypy
	$(TESTS) -m "not slow"

# What takes long: full sizes, memory over thousands of videos, several processes, whole programs. Before a release.
proofs: $(READY)
	$(TESTS) -m slow

clean:
	rm -rf $(VENV) runs build *.egg-info
