// swift-tools-version: 6.0

import PackageDescription

let package = Package(
    name: "S2PBench",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "S2PBench", targets: ["S2PBench"]),
        .library(name: "S2PBenchProbes", targets: ["S2PBenchProbes"]),
        .library(name: "S2PBenchCoreML", targets: ["S2PBenchCoreML"]),
        .library(name: "S2PBenchCoreAI", targets: ["S2PBenchCoreAI"]),
        .executable(name: "s2p-bench", targets: ["s2p-bench"]),
    ],
    targets: [
        .target(name: "S2PBench"),
        .target(name: "S2PBenchProbes", dependencies: ["S2PBench"]),
        .target(name: "S2PBenchCoreML", dependencies: ["S2PBench"]),
        .target(name: "S2PBenchCoreAI", dependencies: ["S2PBench"]),
        .executableTarget(name: "s2p-bench", dependencies: ["S2PBench", "S2PBenchProbes", "S2PBenchCoreML", "S2PBenchCoreAI"]),
        .testTarget(name: "S2PBenchTests", dependencies: ["S2PBench", "S2PBenchProbes"]),
    ],
    swiftLanguageModes: [.v6]
)
