#!/bin/sh
# Type-checks everything that needs Apple's SDK, as iOS 17 compiles it, against the declarations in this folder: for machines without that SDK.
# Usage: check.sh [FOLDER [SYMBOLS]]
#   FOLDER: the repository's, this one's when left out
#   SYMBOLS: nothing is checked but declarations; the library's public symbols go into this folder, as docc takes them
# The standard library for iOS is made from the toolchain's own interfaces, once a Swift version (a minute), and kept in
# ${XDG_CACHE_HOME:-~/.cache}/s2p-mobile/swift-ios17; so are the compiled declarations.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "${1:-$here/../..}" && pwd)"
package="$root/ios_harness"
symbols="${2:-}"
target=x86_64-apple-ios17.0-simulator
toolchain="$(dirname "$(dirname "$(readlink -f "$(command -v swiftc)")")")"
linux="$toolchain/lib/swift/linux"
for need in python3 cksum flock; do
  command -v "$need" >/dev/null || { echo "skipped: there is no $need"; exit 0; }
done
[ -f "$linux/Swift.swiftmodule/x86_64-unknown-linux-gnu.swiftinterface" ] || { echo "skipped: this toolchain has no interfaces of Linux on x86_64"; exit 0; }

key="$( (swiftc --version 2>/dev/null; cat "$here/retarget.py") | cksum | tr ' ' -)"
kept="${XDG_CACHE_HOME:-$HOME/.cache}/s2p-mobile/swift-ios17/$key"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# A compiled interface names the file that it came from, so both are made where they stay; two of these may run at once.
mkdir -p "$(dirname "$kept")"
exec 9>"$kept.lock"
flock 9
if [ ! -f "$kept/done" ]; then
  rm -rf "$kept"
  mkdir -p "$kept/resources/iphonesimulator" "$kept/interfaces"
  cp -r "$toolchain/lib/swift/shims" "$toolchain/lib/swift/clang" "$toolchain/lib/swift/apinotes" "$kept/resources/" 2>/dev/null || true
  for module in Swift SwiftOnoneSupport _Concurrency _StringProcessing Observation; do
    python3 "$here/retarget.py" "$linux/$module.swiftmodule/x86_64-unknown-linux-gnu.swiftinterface" "$kept/interfaces/$module.swiftinterface"
    mkdir -p "$kept/resources/iphonesimulator/$module.swiftmodule"
    own=""
    if [ "$module" = Swift ]; then own="-parse-stdlib"; fi
    # shellcheck disable=SC2086 # one word or none
    swiftc -frontend -compile-module-from-interface $own -module-name "$module" -target "$target" -resource-dir "$kept/resources" \
      -disable-availability-checking -disable-objc-interop -module-cache-path "$kept/modules" \
      -o "$kept/resources/iphonesimulator/$module.swiftmodule/x86_64-apple-ios-simulator.swiftmodule" "$kept/interfaces/$module.swiftinterface"
  done
  touch "$kept/done"
fi

frontend() {  # ARGUMENTS...
  swiftc -frontend -target "$target" -resource-dir "$kept/resources" -disable-objc-interop -swift-version 6 -parse-as-library \
    -module-cache-path "$kept/modules" "$@"
}

stubs="$(cd "$here" && cat ./*.swift check.sh | cksum | tr ' ' -)"
declarations="$kept/declarations-$stubs"
if [ ! -f "$declarations/done" ]; then
  rm -rf "$declarations"
  mkdir "$declarations"
  for stub in Darwin Foundation CoreGraphics ImageIO CryptoKit CoreVideo CoreML CoreAI os UIKit SwiftUI PhotosUI Charts XCTest; do
    frontend -I "$declarations" -module-name "$stub" -emit-module -o "$declarations/$stub.swiftmodule" "$here/$stub.swift"
  done
  touch "$declarations/done"
fi
flock -u 9

modules="$scratch/modules"
mkdir "$modules"
# Macros such as @Observable are programs of the toolchain's own.
source() {  # NAME FOLDER ARGUMENTS...
  name="$1"; folder="$2"; shift 2
  find "$folder" -name '*.swift' >"$scratch/sources"
  frontend -I "$declarations" -I "$modules" -plugin-path "$toolchain/lib/swift/host/plugins" -module-name "$name" "$@" "@$scratch/sources"
}
if [ -n "$symbols" ]; then
  source S2PMobile "$package/Sources/S2PMobile" -package-name s2p_mobile -emit-module -o "$modules/S2PMobile.swiftmodule" \
    -experimental-skip-non-inlinable-function-bodies-without-types -emit-symbol-graph -emit-symbol-graph-dir "$symbols" \
    -symbol-graph-minimum-access-level public
  exit
fi
# What was found right stays right: a module whose sources, and those below it, are the same words as before is taken as it was made.
below="$stubs"
for name in S2PMobile S2PBench S2PBenchProbes S2PBenchApp; do
  below="$( (echo "$below"; cd "$package/Sources/$name"; find . -name '*.swift' | LC_ALL=C sort | xargs cat) | cksum | tr ' ' -)"
  made="$kept/right/$name-$below.swiftmodule"
  if [ -f "$made" ]; then
    cp "$made" "$modules/$name.swiftmodule"
    touch "$made"
  else
    source "$name" "$package/Sources/$name" -package-name s2p_mobile -emit-module -o "$modules/$name.swiftmodule" 2>"$scratch/said" || {
      cat "$scratch/said" >&2
      exit 1
    }
    cat "$scratch/said" >&2
    mkdir -p "$kept/right"
    # Warnings are told each time.
    [ -s "$scratch/said" ] || { cp "$modules/$name.swiftmodule" "$made.$$" && mv "$made.$$" "$made"; }
  fi
done
find "$kept/right" -mtime +7 -delete 2>/dev/null || true
# Apps stand outside of the package: what is not public is not theirs.
source S2PBenchMain "$package/App/Sources" -typecheck
source S2PBenchDeviceTests "$package/App/DeviceTests" -typecheck
source S2PExample "$root/examples/ios/Sources" -typecheck
