#!/usr/bin/env bash
# Real sizes on one CUDA GPU in under nine minutes, without a network:
#   benchmarks/real_size_gpu.sh WHEELS OUT
# WHEELS: a folder of wheels: what the installed Python lacks of real_size_gpu.txt and of what these packages ask for, and nothing else
#         (pip download --no-deps -d WHEELS NAME ... on a machine with a network)
# OUT:    gets speed.txt, one JSON file for each quantization, and results-real-size.md
# Each part has its time; one that takes longer is ended, and the others go on.
set -uo pipefail
cd "$(dirname "$0")/.."
wheels="${1:?folder of wheels}"
out="${2:?folder for results}"
mkdir -p "$out"
python="${PYTHON:-python3}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# Beside what is installed, in a folder of its own: an environment made from one that is an environment itself would not see PyTorch.
# This project is not installed at all: it runs from the source tree.
"$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$scratch/site" "$wheels"/*.whl || exit 1
export PYTHONPATH="$PWD/sdk:$PWD/converters:$PWD/runtime_py:$PWD/tools:$PWD/benchmarks:$scratch/site"
export S2P_CACHE="$scratch/cache"
run="$python"

"$run" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' | tee "$out/device.txt" || exit 1
timeout 60 "$run" -c "
from pathlib import Path
from full_size_model import make
make(Path('$scratch/work/sd1'), 'sd1', 1.0, whole=True)
" || exit 1
timeout 150 "$run" benchmarks/training_speed.py "$scratch/work/sd1" --steps 3 --warm-up 1 --work "$scratch/speed" | tee "$out/speed.txt"
timeout 60 "$run" benchmarks/training_speed.py "$scratch/work/sd1" --steps 3 --warm-up 1 --learn scales --batches 1 8 \
  --work "$scratch/speed" | tee "$out/speed-scales.txt"
for recipe in w4a8-mixed w4a8-quick; do
  timeout 120 "$run" benchmarks/real_size.py --model sd1 --recipe "$recipe" --device cuda --steps 4 --work "$scratch/work" \
    >"$out/$recipe.log" 2>&1 || echo "$recipe: stopped, see $out/$recipe.log"
done
cp "$scratch"/work/*.json "$out" 2>/dev/null
"$run" benchmarks/real_size.py --work "$scratch/work" --report "$out/results-real-size.md"
