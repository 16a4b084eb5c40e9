#!/bin/sh
# Builds the C++ harness and runs its tests natively and, for 64-bit Arm, under qemu. Says nothing but a line each when all is
# well. S2P_JOBS sets the number of compilers at a time (default: the cores).
set -eu
cd "$(dirname "$0")/.."
. scripts/packages.sh
need cmake make g++ nlohmann-json3-dev googletest

presets="native"
if [ "$(uname -m)" = x86_64 ]; then
  need g++-aarch64-linux-gnu qemu-user-static
  presets="native aarch64"
fi
for preset in $presets; do
  # -O1: these builds live for one run, and the compiler would take longer than the tests gain.
  quietly cmake --preset "$preset" -DCMAKE_CXX_FLAGS_RELEASE=-O1
  quietly cmake --build --preset "$preset" -j "${S2P_JOBS:-$(nproc)}"
  quietly ctest --preset "$preset"
  echo "C++ harness, $preset: tests passed"
done
