#!/usr/bin/env bash
# Python 3.10 with the versions that upstream's Lava pins (NumPy 1, torch 2.3, pytest 7), as installed by plain pip:
# tests of what they may change, and Lava there driven from the newer Python here.
# Needs uv and a Python 3.10.
set -euo pipefail
cd "$(dirname "$0")/.."

# uv fails on pyenv's python3.10 shim on the PATH if another version is selected, so look in pyenv first.
python=$(ls "$(pyenv root 2>/dev/null)"/versions/3.10.*/bin/python 2>/dev/null | tail -n 1 || true)
python=${python:-$(python3 -m uv python find --no-project --no-python-downloads 3.10 2>/dev/null || true)}
if [[ -z $python ]]; then
    echo "SKIPPED: this machine does not have Python 3.10, so the tests with upstream's pins were not run."
    exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m uv venv --quiet --no-config --python "$python" "$folder/venv"
python="$folder/venv/bin/python"
# Without --no-config, [tool.uv] of pyproject.toml would replace upstream's pins.
python3 -m uv pip install --quiet --no-config --python "$python" '.[lava,nir,sweep]' hatchling hypothesis pytest-timeout pytest-xdist
"$python" -c 'import platform, numpy, pytest, torch
print("Python", platform.python_version(), "NumPy", numpy.__version__, "torch", torch.__version__, "pytest", pytest.__version__)'

# What another Python, PyTorch, NumPy or pytest may change: models read, arithmetic, files, options, reports. Whole
# commands and what only repeats it are left to the newer Python, as are CUDA tensors without a GPU, which torch 2.3 lacks.
"$python" -m pytest -q -m "not slow and not lava and not browser and not slurm" -k "not on_a_gpu" \
    tests/test_{api,balance,changes_in_place,checkpoint,digits,float16,foreign_checkpoints,from_nir,graded,graph,layerwise}.py \
    tests/test_{network,netx,neurons,obstacles,options,outputs,own_images,qcfs,quantize,reading,report,run_folder,source}.py \
    tests/test_{torch_zip,tracing,user_models}.py tests/test_lower*.py
"$python" -m pytest -q -m lava -k "hand_trace or everything_else_works" \
    tests/test_lava.py tests/test_lava_circuit.py tests/test_python.py
python3 -m uv run loihi-convert doctor --lava-python "$python"
