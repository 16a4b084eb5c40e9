#!/bin/sh
# Type-checks everything that needs Apple's SDK, as iOS 17 compiles it, against the declarations in this folder: for machines without that SDK.
# Usage: check.sh [FOLDER]
#   FOLDER: the repository's, this one's when left out
# The standard library for iOS is made from the toolchain's own interfaces, once a Swift version (a minute), and kept in
# ${XDG_CACHE_HOME:-~/.cache}/s2p-mobile/swift-ios17; so are the compiled declarations.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "${1:-$here/../..}" && pwd)"
package="$root/ios_harness"
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
  for stub in Darwin Foundation CoreGraphics CryptoKit CoreVideo CoreML CoreAI os UIKit SwiftUI Charts XCTest; do
    frontend -I "$declarations" -module-name "$stub" -emit-module -o "$declarations/$stub.swiftmodule" "$here/$stub.swift"
  done
  touch "$declarations/done"
fi
flock -u 9

modules="$scratch/modules"
mkdir "$modules"
check() {  # NAME FOLDER
  find "$2" -name '*.swift' >"$scratch/sources"
  plugins="$toolchain/lib/swift/host/plugins"
  # Macros such as @Observable are programs of the toolchain's own.
  frontend -I "$declarations" -I "$modules" -package-name s2p_mobile -plugin-path "$plugins" -module-name "$1" -emit-module \
    -experimental-skip-non-inlinable-function-bodies-without-types -o "$modules/$1.swiftmodule" "@$scratch/sources"
  frontend -I "$declarations" -I "$modules" -package-name s2p_mobile -plugin-path "$plugins" -module-name "$1" -typecheck "@$scratch/sources"
}
for name in S2PMobile S2PBench S2PBenchProbes S2PBenchApp; do check "$name" "$package/Sources/$name"; done
# Apps stand outside of the package: what is not public is not theirs.
apps() {  # NAME FOLDER
  find "$2" -name '*.swift' >"$scratch/sources"
  frontend -I "$declarations" -I "$modules" -plugin-path "$toolchain/lib/swift/host/plugins" -module-name "$1" -typecheck "@$scratch/sources"
}
apps S2PBenchMain "$package/App/Sources"
apps S2PBenchDeviceTests "$package/App/DeviceTests"
apps S2PExample "$root/examples/ios/Sources"
