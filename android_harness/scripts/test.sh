#!/bin/sh
# Builds the C++ harness and runs its tests: with g++ under the address and undefined-behaviour sanitizers (thousands of
# mutated files among them), with clang, and with g++ for 64-bit Arm under qemu. Says nothing but a line each when all is
# well. S2P_JOBS sets the number of compilers at a time (default: the cores).
# Usage: test.sh [sanitize] [clang] [aarch64]
set -eu
cd "$(dirname "$0")/.."
. scripts/packages.sh
need cmake make g++ nlohmann-json3-dev googletest

# Leaks, overflows and the like end the tests with a status that is not 0.
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
for preset in ${*:-sanitize clang aarch64}; do
  case "$preset" in
    clang) need clang ;;
    aarch64)
      if [ "$(uname -m)" != x86_64 ]; then continue; fi  # an Arm machine runs the others as they are
      need g++-aarch64-linux-gnu qemu-user-static ;;
  esac
  # -O1: these builds live for one run, and the compiler would take longer than the tests gain.
  quietly cmake --preset "$preset" -DCMAKE_CXX_FLAGS_RELEASE=-O1
  quietly cmake --build --preset "$preset" -j "${S2P_JOBS:-$(nproc)}"
  quietly ctest --preset "$preset"
  echo "C++ harness, $preset: tests passed"
done
