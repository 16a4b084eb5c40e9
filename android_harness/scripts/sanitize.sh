#!/bin/sh
# The tests, 12,500 mutated files among them, under the address and undefined-behaviour sanitizers.
set -eu
cd "$(dirname "$0")/.."
. scripts/packages.sh
need cmake make g++ nlohmann-json3-dev googletest

quietly cmake --preset sanitize
quietly cmake --build --preset sanitize -j "${S2P_JOBS:-$(nproc)}"
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
quietly ctest --preset sanitize
echo "C++ harness: tests passed under address and undefined-behaviour sanitizers"
