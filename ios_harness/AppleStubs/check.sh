#!/bin/sh
# Type-checks S2PBenchCoreML, S2PBenchCoreAI and the app against the declarations in this folder: for machines without Apple's SDK.
# Usage: check.sh [FOLDER]
#   FOLDER: the package's, this one when left out
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
package="$(cd "${1:-$here/..}" && pwd)"
modules="$(mktemp -d)"
trap 'rm -rf "$modules"' EXIT

compile() {  # NAME SOURCES...
  name="$1"; shift
  swiftc -swift-version 6 -parse-as-library -I "$modules" -module-name "$name" -emit-module -emit-module-path "$modules/$name.swiftmodule" "$@"
}

for stub in CoreVideo CoreML CoreAI os UIKit SwiftUI Charts; do
  compile "$stub" "$here/$stub.swift"
done
for target in S2PBench S2PBenchProbes S2PBenchCoreML S2PBenchCoreAI; do
  find "$package/Sources/$target" -name '*.swift' >"$modules/sources"
  compile "$target" "@$modules/sources"
done
swiftc -swift-version 6 -parse-as-library -I "$modules" -module-name S2PBenchApp -typecheck "$package"/App/Sources/*.swift
