#!/bin/sh
# Builds s2p-run and s2p-bench with the ExecuTorch of a Python environment: build_wheel.sh [PYTHON]. Result: build/wheel.
set -eu
python=${1:-python3}
cd "$(dirname "$0")/.."
. ../scripts/packages.sh
need cmake make g++ nlohmann-json3-dev

quietly cmake --preset wheel -DPython3_EXECUTABLE="$python" -DCMAKE_CXX_FLAGS_RELEASE=-O2
quietly cmake --build --preset wheel -j "${S2P_JOBS:-$(nproc)}"
