import Foundation

/// One command on one bundle, from options to files: what the command-line tool, the app and its test share.
public struct BenchSession: Sendable {
    /// Builds the components that draw: Core ML on Apple's systems, a replay elsewhere.
    public typealias MakeComponents = @Sendable (ModelBundle, RunOptions) async throws -> ComponentSet

    public let bundle: ModelBundle
    public let components: ComponentSet
    public let probes: DeviceProbes
    public let options: RunOptions
    /// Relative output paths lie here.
    public let outputFolder: URL

    public init(
        options: RunOptions, bundleFolder: URL, outputFolder: URL, probes: DeviceProbes, makeComponents: MakeComponents
    ) async throws {
        bundle = try ModelBundle(opening: bundleFolder)
        if options.chunks == .released { try bundle.requireChunks() }
        try bundle.requireComponents(options.units.keys.sorted())
        components = options.replay ? try Replay.components(of: bundle) : try await makeComponents(bundle, options)
        self.probes = probes
        self.options = options
        self.outputFolder = outputFolder
    }

    /// Measures, and writes the report.
    public func run(emit: @escaping @Sendable (BenchEvent) -> Void = { _ in }) async throws -> BenchReport {
        let pipeline = try makePipeline()
        let runner = try BenchRunner(
            pipeline: pipeline, probes: probes, settings: options.settings, minimumLatentPSNR: options.minimumLatentPSNR
        ) { event in
            emit(event)
            if case .compared(let drawn, _, let fidelity) = event, let folder = options.pictures {
                // A picture that cannot be written must not end a measurement.
                try? write(drawn.png(), to: "\(folder)/\(fidelity.goldenID).png")
            }
        }
        let report = try await runner.run(goldenRuns: try goldenRuns())
        await pipeline.unload()
        // Whole before the engine looks at the programs once more: should memory run out there, the measurement is not lost.
        try write(try encodeContract(report), to: options.out ?? "report.json")
        let placed = await runner.placed(report)
        if placed != report { try write(try encodeContract(placed), to: options.out ?? "report.json") }
        return placed
    }

    /// Draws a prompt, and writes the picture.
    public func draw(_ prompt: String, seed: UInt64) async throws -> (picture: Picture, drawing: Drawing) {
        let pipeline = try makePipeline()
        let drawing = try await pipeline.draw(prompt, seed: seed)
        await pipeline.unload()
        let picture = try Picture(drawing.image)
        try write(picture.png(), to: options.out ?? "picture.png")
        return (picture, drawing)
    }

    /// The golden runs that the components can draw: all, or the one that is replayed.
    public func goldenRuns() throws(BenchError) -> [GoldenRun] {
        if components.isReplay {
            return [try Replay.recordedRun(of: bundle)]
        }
        var runs: [GoldenRun] = []
        for spec in bundle.manifest.golden { runs.append(try GoldenRun(spec, in: bundle)) }
        return runs
    }

    private func makePipeline() throws(BenchError) -> ImagePipeline {
        let automatic = Residency.suited(to: bundle.totalBytes, availableBytes: probes.memory.availableBytes)
        return try ImagePipeline(
            bundle: bundle, components: components, residency: options.residency ?? automatic, clock: probes.clock
        )
    }

    private func write(_ data: Data, to path: String) throws(BenchError) {
        let url = path.hasPrefix("/") ? URL(fileURLWithPath: path) : outputFolder.appendingPathComponent(path)
        do {
            try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try data.write(to: url, options: .atomic)
        } catch {
            throw .cannotWrite(path: url.path, reason: error.localizedDescription)
        }
    }
}
