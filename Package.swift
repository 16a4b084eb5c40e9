// swift-tools-version: 6.0

// The library alone, so that apps can name this repository as a package. ios_harness has it with its tests and the bench.

import PackageDescription

let package = Package(
    name: "s2p-mobile",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "S2PMobile", targets: ["S2PMobile"])],
    targets: [.target(name: "S2PMobile", path: "ios_harness/Sources/S2PMobile")],
    swiftLanguageModes: [.v6]
)
