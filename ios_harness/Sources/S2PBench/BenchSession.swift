import Foundation
import S2PMobile

/// One command on one bundle, from options to files: what the command-line tool, the app and its test share.
package struct BenchSession: Sendable {
    /// Builds the components that draw: an engine of this system, or a replay.
    package typealias MakeComponents = @Sendable (ModelBundle, EngineOptions) async throws -> ComponentSet

    package let bundle: ModelBundle
    package let components: ComponentSet
    package let probes: DeviceProbes
    package let options: RunOptions
    /// Relative output paths lie here.
    package let outputFolder: URL

    package init(
        options: RunOptions, bundleFolder: URL, outputFolder: URL, probes: DeviceProbes, makeComponents: MakeComponents
    ) async throws {
        bundle = try ModelBundle(opening: bundleFolder)
        if options.chunks == .released { try bundle.requireChunks() }
        try bundle.requireComponents(options.units.keys.sorted())
        components = options.replay ? try Replay.components(of: bundle) : try await makeComponents(bundle, options.engine)
        self.probes = probes
        self.options = options
        self.outputFolder = outputFolder
    }

    /// Measures, and writes the report.
    package func run(emit: @escaping @Sendable (BenchEvent) -> Void = { _ in }) async throws -> BenchReport {
        let pipeline = try makePipeline()
        let runner = try BenchRunner(
            pipeline: pipeline, probes: probes, settings: options.settings, minimumLatentPSNR: options.minimumLatentPSNR,
            coolingSeconds: options.coolingSeconds
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
        try write(try encodeContract(report), to: reportPath)
        let placed = await runner.placed(report)
        if placed != report { try write(try encodeContract(placed), to: reportPath) }
        return placed
    }

    /// Measures memory alone, and puts the figures into the report that an earlier launch wrote. In this one nothing is compiled.
    ///
    /// - Throws: `notFound` without such a report; `usage` when it is of another bundle.
    package func measureMemory(emit: @escaping @Sendable (BenchEvent) -> Void = { _ in }) async throws -> BenchReport {
        let url = place(reportPath)
        guard let data = try? Data(contentsOf: url) else {
            throw S2PError.usage("there is no report \(url.path) to complete", "measure with run first")
        }
        var report = try decodeContract(BenchReport.self, from: data, name: url.lastPathComponent)
        guard report.bundleSHA256 == bundle.manifestSHA256 else {
            throw S2PError.usage("the report \(url.lastPathComponent) is of another bundle", "measure this one with run first")
        }
        let pipeline = try makePipeline()
        guard let golden = try goldenRuns().first else {
            throw S2PError.noGoldenRun(folder: bundle.folder.lastPathComponent, reason: "the list is empty")
        }
        let runner = try BenchRunner(pipeline: pipeline, probes: probes, settings: options.settings, emit: emit)
        report.memory = try await runner.memory(of: golden)
        await pipeline.unload()
        report.missing = missingReasons(report, known: report.missing.merging(probes.reasons) { old, _ in old })
        try write(try encodeContract(report), to: reportPath)
        return report
    }

    private var reportPath: String { options.out ?? "report.json" }

    /// Draws a prompt as an app does, and writes the picture.
    package func draw(_ prompt: String, seed: UInt64) async throws -> (picture: Picture, milliseconds: Double) {
        let pipeline = try Pipeline(bundle: bundle, components: components, residency: residency)
        let start = probes.clock.milliseconds
        var drawn: Picture?
        for try await step in pipeline.generate(prompt, seed: seed) { drawn = step.picture }
        let elapsed = probes.clock.milliseconds - start
        await pipeline.unload()
        guard let drawn else { throw CancellationError() }
        try write(drawn.png(), to: options.out ?? "picture.png")
        return (drawn, elapsed)
    }

    /// The golden runs that the components can draw: all, or the one that is replayed.
    package func goldenRuns() throws(S2PError) -> [GoldenRun] {
        if components.isReplay {
            return [try Replay.recordedRun(of: bundle)]
        }
        var runs: [GoldenRun] = []
        for spec in bundle.manifest.golden { runs.append(try GoldenRun(spec, in: bundle)) }
        return runs
    }

    private func makePipeline() throws(S2PError) -> ImagePipeline {
        try ImagePipeline(bundle: bundle, components: components, residency: residency, clock: probes.clock)
    }

    private var residency: Residency { options.residency ?? MemoryPlan(for: bundle, budget: MemoryPlan.systemBudget).residency }

    private func place(_ path: String) -> URL {
        path.hasPrefix("/") ? URL(fileURLWithPath: path) : outputFolder.appendingPathComponent(path)
    }

    private func write(_ data: Data, to path: String) throws(S2PError) {
        let url = place(path)
        do {
            try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try data.write(to: url, options: .atomic)
        } catch {
            throw .cannotWrite(path: url.path, reason: error.localizedDescription)
        }
    }
}
