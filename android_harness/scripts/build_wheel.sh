#!/bin/sh
# Builds s2p-run and s2p-bench with the ExecuTorch of a Python environment, and the library's native half where there is a JDK:
# build_wheel.sh [PYTHON]. Result: build/wheel. S2P_OPTIMIZE (default: -O2) is the compiler's, for builds that live for one run.
set -eu
python=${1:-python3}
cd "$(dirname "$0")/.."
. ../scripts/packages.sh
need cmake make g++ nlohmann-json3-dev

jdk=$(readlink -f "$(command -v javac || true)" | sed 's|/bin/javac$||')
if [ -f "$jdk/include/jni.h" ]; then jni=ON; else jni=OFF; fi
quietly cmake --preset wheel -DPython3_EXECUTABLE="$python" -DCMAKE_CXX_FLAGS_RELEASE="${S2P_OPTIMIZE:--O2}" -DS2P_JNI=$jni -DS2P_JDK="$jdk"
quietly cmake --build --preset wheel -j "${S2P_JOBS:-$(nproc)}"
