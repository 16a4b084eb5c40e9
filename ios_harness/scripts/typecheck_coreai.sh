#!/usr/bin/env bash
# Type-checks the Core AI engine against Stubs/CoreAI, on a machine that has Swift and not Apple's framework.
# Usage: ios_harness/scripts/typecheck_coreai.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
swiftc -swift-version 6 -parse-as-library -emit-module -module-name CoreAI -o "$scratch/CoreAI.swiftmodule" Stubs/CoreAI/*.swift
swiftc -swift-version 6 -parse-as-library -emit-module -module-name S2PBench -o "$scratch/S2PBench.swiftmodule" \
  $(find Sources/S2PBench -name '*.swift')
swiftc -swift-version 6 -parse-as-library -typecheck -warnings-as-errors -I "$scratch" Sources/S2PBenchCoreAI/*.swift
