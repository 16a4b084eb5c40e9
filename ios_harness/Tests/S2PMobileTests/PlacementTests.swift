import Foundation
import S2PBenchProbes
import Testing

@testable import S2PBench
@testable import S2PMobile

@Suite struct PlacementTests {
    private static let everywhere: [Processor] = [.neuralEngine, .gpu, .cpu]

    private func operation(_ type: String, _ outputs: [String], on preferred: Processor?, cost: Double? = nil) -> DescribedOperation {
        DescribedOperation(type: type, outputs: outputs, usage: preferred.map { ($0, Self.everywhere) }, cost: cost)
    }

    @Test func keepsEveryOperatorInItsOrderAndLeavesConstantsOut() {
        let operations = [
            operation("const", ["weight"], on: nil), operation("ios16.constexpr_lut_to_dense", ["palette"], on: nil),
            operation("ios17.conv", ["a"], on: .neuralEngine, cost: 0.75), operation("split", ["b", "c"], on: .cpu),
            operation("constant_like", ["d"], on: nil), operation("ios17.const", ["e"], on: .cpu), operation("print", [], on: .other),
        ]
        let placed = placement(of: operations, program: "unet_2", function: "size_64x48")
        #expect(placed.map(\.type) == ["ios17.conv", "split", "constant_like", "print"])
        #expect(placed.map(\.output) == ["a", "b", "d", nil])
        #expect(placed.map(\.preferred) == [.neuralEngine, .cpu, nil, .other])
        #expect(placed.map(\.supported) == [Self.everywhere, Self.everywhere, [], Self.everywhere])
        #expect(placed.map(\.cost) == [0.75, nil, nil, nil])
        #expect(placed.allSatisfy { $0.program == "unet_2" && $0.function == "size_64x48" })
    }

    @Test func countsOperatorsByProcessor() {
        func counts(_ processors: [Processor?]) -> String? {
            operatorShares(placement(of: processors.map { operation("add", ["x"], on: $0) }, program: "p", function: "main"))
        }
        #expect(counts([.cpu, .neuralEngine, nil, .neuralEngine, .other]) == "Neural Engine 2 operators, CPU 1, other 1")
        #expect(counts([nil]) == nil && counts([]) == nil)
    }

    /// Nine operators of no weight on the CPU are not nine tenths of the work.
    @Test func weighsOperatorsByTheirShareOfTheWork() {
        let small = (0..<9).map { operation("add", ["x\($0)"], on: .cpu, cost: 0.01) }
        let placed = placement(of: small + [operation("conv", ["y"], on: .neuralEngine, cost: 0.91)], program: "p", function: "main")
        #expect(operatorShares(placed) == "Neural Engine 91 % of the work (1 operators), CPU 9 % (9)")
        // One without an estimate: there is no whole to take a share of.
        let unknown = placed + placement(of: [operation("mul", ["z"], on: .gpu)], program: "p", function: "main")
        #expect(operatorShares(unknown) == "Neural Engine 1 operators, GPU 1, CPU 9")
    }

    /// The report is on disk before the engine looks at the programs once more, and has their placement in the end.
    @Test(arguments: [false, true]) func aSessionAsksForThePlacementLast(_ dies: Bool) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("placed-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let file = folder.appendingPathComponent("report.json")
        let placed = placement(of: [operation("conv", ["noise_pred"], on: .gpu)], program: "unet", function: "main")
        let early = ReportLog()
        let instrument = Instrument { _ in }
        instrument.describe = { asked in
            guard asked else { return EngineDescription(backend: ["unet": "neural-engine"], computeUnits: ["unet": .neuralEngine]) }
            let unloaded = ["text_encoder", "unet", "vae_decoder"].allSatisfy { instrument.count("unload \($0)") == 1 }
            early.note(try? Data(contentsOf: file), unloaded: unloaded)
            return EngineDescription(
                backend: ["unet": "neural-engine; operators: GPU 1"], computeUnits: ["unet": .neuralEngine], placement: dies ? [] : placed
            )
        }
        let options = try RunOptions(arguments: ["run", "x", "--runs", "1", "--warmup", "0", "--cooldown", "0", "--minimum", "0", "--no-stage"])
        let session = try await BenchSession(
            options: options, bundleFolder: Fixtures.replay, outputFolder: folder, probes: await DeviceProbes.current()
        ) { bundle, _ in instrument.wrap(try Replay.components(of: bundle)) }
        let report = try await session.run()
        let first = try decodeContract(BenchReport.self, from: try #require(early.data), name: "first")
        #expect(early.unloaded && first.placement.isEmpty && first.missing["placement"] != nil)
        #expect(first.computeUnits == ["unet": "neural-engine"] && first.timingsMS == report.timingsMS)
        #expect(report.placement == (dies ? [] : placed) && (report.missing["placement"] == nil) == !dies)
        #expect(report.backend == ["unet": "neural-engine; operators: GPU 1"])
        #expect(try decodeContract(BenchReport.self, from: Data(contentsOf: file), name: "last") == report)
    }
}

/// What lay on disk when somebody looked.
private final class ReportLog: @unchecked Sendable {
    private let lock = NSLock()
    private var found: (data: Data?, unloaded: Bool) = (nil, false)

    var data: Data? { lock.withLock { found.data } }
    var unloaded: Bool { lock.withLock { found.unloaded } }
    func note(_ data: Data?, unloaded: Bool) { lock.withLock { found = (data, unloaded) } }
}
