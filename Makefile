# Everything a newcomer types. `make demo` and `make test` set up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# Where torch comes from: empty chooses by machine, or the address of a package index, for example PyTorch's
# own CPU index as their "Get Started" page shows it:  make venv TORCH_INDEX=https://...
TORCH_INDEX ?=

.PHONY: demo test test-slow lint format docs venv clean android-check android-app devices-up devices-test devices-down
.DEFAULT_GOAL := demo

demo: venv
	$(BIN)/edgeplm demo

test: venv
	$(BIN)/python -m pytest -m "not slow and not devices"

test-slow: venv
	$(BIN)/python -m pytest -m "not devices"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/commands.md and docs/recipe.md are generated; tests check that they are up to date.
docs: venv
	$(BIN)/python -m toolkit.reference docs

venv: $(VENV)/.ready

# The marker is newer than what it depends on only if every step before it succeeded.
$(VENV)/.ready: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "EdgePLM needs Python 3.11 or later; yours is $$($(PYTHON) -V 2>&1). Type: make venv PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(INSTALL_TORCH)
	@touch $@

# A machine without a GPU never gets the gigabytes of CUDA that the plain package brings on Linux: the CPU build
# is taken from pip's own sources if they have it, else by uv, which knows PyTorch's CPU index.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
define INSTALL_TORCH
if [ -n "$(TORCH_INDEX)" ]; then $(PIP_INSTALL) --index-url "$(TORCH_INDEX)" "$(TORCH)"; \
elif [ "$$(uname)" != Linux ] || nvidia-smi >/dev/null 2>&1; then $(PIP_INSTALL) "$(TORCH)"; \
elif $(PIP_INSTALL) "$(TORCH)+cpu" 2>/dev/null; then :; \
elif $(PIP_INSTALL) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu "$(TORCH)"; then :; \
else echo "No CPU build of $(TORCH) was found. Give PyTorch's CPU index: make venv TORCH_INDEX=ADDRESS"; exit 1; fi
endef

# A virtual Raspberry Pi and a virtual Android with real parts (root, Debian): CONTRIBUTING.md.
devices-up: venv
	$(BIN)/python tests/devices/virtual.py up

devices-test: venv
	$(BIN)/python -m pytest -m devices tests/devices

devices-down: venv
	$(BIN)/python tests/devices/virtual.py down

# Kotlin compiled and tested, an APK built and signed, with neither Gradle nor an Android SDK: docs/android.md.
android-check: venv
	$(BIN)/python android-demo/check

# The real build, for machines with an Android SDK (ANDROID_HOME). The wrapper is not in the repository.
GRADLE_VERSION := 9.8.0
android-app:
	@[ -n "$$ANDROID_HOME" ] || [ -f android-demo/local.properties ] || \
	    { echo "Set ANDROID_HOME to an Android SDK, or build in Android Studio: docs/android.md"; exit 1; }
	@ls android-demo/libs/onnxruntime-genai-android-*.aar >/dev/null 2>&1 || \
	    { echo "ONNX Runtime GenAI's AAR is missing: android-demo/libs/README.md says where it is from"; exit 1; }
	@[ -x android-demo/gradlew ] || command -v gradle >/dev/null || \
	    { echo "gradle is not installed; it is needed once, to write the wrapper: docs/android.md"; exit 1; }
	cd android-demo && { [ -x gradlew ] || gradle wrapper --gradle-version $(GRADLE_VERSION); } && ./gradlew assembleDebug

clean:
	rm -rf $(VENV) build *.egg-info
