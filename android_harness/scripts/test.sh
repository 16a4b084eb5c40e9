#!/bin/sh
# Builds the C++ harness and runs its tests: with clang under the address and undefined-behaviour sanitizers (thousands of
# mutated files among them; g++ takes nearly twice as long to build that), and with g++: for 64-bit Arm under qemu on x86-64, for
# the machine itself elsewhere. Says nothing but a line each when all is well. S2P_JOBS sets the number of compilers at a time (default: the cores).
# Usage: test.sh [sanitize] [aarch64] [native]
set -eu
cd "$(dirname "$0")/.."
. ../scripts/packages.sh
need cmake make g++ nlohmann-json3-dev googletest

# Leaks, overflows and the like end the tests with a status that is not 0.
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
if [ "$(uname -m)" = x86_64 ]; then gcc=aarch64; else gcc=native; fi
for preset in ${*:-sanitize $gcc}; do
  case "$preset" in
    sanitize) need clang libclang-rt-dev ;;
    aarch64) need g++-aarch64-linux-gnu qemu-user-static ;;
  esac
  # -O1: these builds live for one run, and the compiler would take longer than the tests gain.
  quietly cmake --preset "$preset" -DCMAKE_CXX_FLAGS_RELEASE=-O1
  quietly cmake --build --preset "$preset" -j "${S2P_JOBS:-$(nproc)}"
  quietly ctest --preset "$preset"
  echo "C++ harness, $preset: tests passed"
done
