// swift-tools-version: 6.0

import PackageDescription

let package = Package(
    name: "S2PMobile",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "S2PMobile", targets: ["S2PMobile"]),
        .library(name: "S2PBenchApp", targets: ["S2PBenchApp"]),
        .executable(name: "s2p-bench", targets: ["s2p-bench"]),
    ],
    targets: [
        .target(name: "S2PMobile"),
        .target(name: "S2PBench", dependencies: ["S2PMobile"]),
        .target(name: "S2PBenchProbes", dependencies: ["S2PBench", "S2PMobile"]),
        .target(name: "S2PBenchApp", dependencies: ["S2PBench", "S2PBenchProbes", "S2PMobile"]),
        .executableTarget(name: "s2p-bench", dependencies: ["S2PBench", "S2PBenchProbes", "S2PMobile"]),
        .target(name: "AllocationGuard", path: "Tests/AllocationGuard"),
        .testTarget(
            name: "S2PMobileTests", dependencies: ["S2PMobile", "S2PBench", "S2PBenchProbes", "AllocationGuard"], exclude: ["Data"]
        ),
    ],
    swiftLanguageModes: [.v6]
)
