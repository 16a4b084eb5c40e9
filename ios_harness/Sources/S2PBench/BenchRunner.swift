import Foundation
import S2PMobile

/// Measures a bundle: memory, fidelity, then latency with heat and charge.
///
/// 1. Memory pass: baseline, every component loaded and one picture drawn, the footprint sampled at 1 Hz. It comes first because the
///    kernel's peak only ever rises. A launch of its own measures memory better (`BenchSession.measureMemory`): here programs may be
///    compiled, too. Where the engine keeps a record of first loads, each component is then released and loaded once more.
/// 2. Fidelity: the golden runs that the components can draw, compared with their recorded latents and pictures.
/// 3. Warm-up pictures, a rest of `cooldownSeconds`, more of it until the device says that it is cool, then at least `runs` pictures
///    until `minimumSeconds` have passed; heat and charge at 1 Hz, and what happens to the app. A critical thermal state or
///    `maximumRuns` ends the pass early.
package struct BenchRunner: Sendable {
    package static let harnessVersion = "0.2.0"
    /// No protocol needs more pictures than this; it bounds a run whose clock does not advance.
    private static let maximumRuns = 10_000

    package let pipeline: ImagePipeline
    package let probes: DeviceProbes
    package let settings: BenchProtocol
    /// Below this PSNR of the final latents a run counts as another picture.
    package let minimumLatentPSNR: Double
    /// At most so long a device that is warm is waited for.
    package let coolingSeconds: Double
    private let emit: @Sendable (BenchEvent) -> Void

    package init(
        pipeline: ImagePipeline, probes: DeviceProbes, settings: BenchProtocol, minimumLatentPSNR: Double = Fidelity.minimumLatentPSNR,
        coolingSeconds: Double = 600, emit: @escaping @Sendable (BenchEvent) -> Void = { _ in }
    ) throws(S2PError) {
        guard settings.runs >= 1, settings.warmupRuns >= 0, settings.cooldownSeconds >= 0, settings.minimumSeconds >= 0,
            settings.cooldownSeconds.isFinite, settings.minimumSeconds.isFinite
        else {
            throw .usage("runs must be at least 1, the other settings not negative", "see --help")
        }
        self.pipeline = pipeline
        self.probes = probes
        self.settings = settings
        self.minimumLatentPSNR = minimumLatentPSNR
        self.coolingSeconds = coolingSeconds
        self.emit = emit
    }

    /// Runs the whole protocol.
    ///
    /// - Parameter goldenRuns: drawn and compared; the first one's prompt and seed are timed.
    /// - Throws: `noGoldenRun` when the list is empty; what the components throw; `CancellationError`.
    package func run(goldenRuns: [GoldenRun], created: Date = Date()) async throws -> BenchReport {
        guard let timed = goldenRuns.first else {
            throw S2PError.noGoldenRun(folder: pipeline.bundle.folder.lastPathComponent, reason: "the list is empty")
        }
        let start = probes.clock.seconds
        let atStart = await probes.battery.read()
        var timings = Timings()

        emit(.phase(.memory))
        let (memory, first) = try await memoryPass(timed, start)
        timings.load = first.loadMS
        timings.loadPhases = try await loadPass()

        emit(.phase(.fidelity))
        let fidelity = try await fidelityPass(goldenRuns, first: first)

        emit(.phase(.warmUp))
        for _ in 0..<settings.warmupRuns { _ = try await pipeline.draw(timed.spec.prompt, seed: timed.spec.seed) }
        emit(.phase(.coolDown))
        if settings.cooldownSeconds > 0 { try await probes.clock.sleep(seconds: settings.cooldownSeconds) }
        try await waitUntilCool()

        emit(.phase(.timing))
        let thermalAtStart = probes.thermal.state
        let (inSight, unlocked) = (await probes.lifecycle.isForeground(), await probes.lifecycle.isUnlocked())
        let recorder = ProbeRecorder(probes, pass: .timing, start: start, emit: emit)
        let (measured, lasted) = try await ProbeRecorder.during(
            recorder, clock: probes.clock, thermalChanges: probes.thermal.changes()
        ) {
            try await timingPass(timed)
        }
        for drawing in measured {
            timings.textEncoder.append(drawing.textEncoderMS)
            timings.unetCall.append(drawing.unetCallMS)
            timings.vaeDecoder.append(drawing.decoderMS)
            timings.image.append(drawing.totalMS)
        }
        let atEnd = await probes.battery.read()
        let (thermal, energy, events) = (await recorder.thermal, await recorder.energy, await recorder.events)
        let states = thermal.compactMap(\.state)
        let hot = [ThermalState.serious, .critical].map(\.rawValue)
        let validity = Validity(
            unplugged: both(atStart.unplugged, atEnd.unplugged),
            lowPowerModeOff: both(atStart.lowPowerMode.map { !$0 }, atEnd.lowPowerMode.map { !$0 }),
            thermalNominalAtStart: thermalAtStart.map { $0 == .nominal },
            minimumDurationMet: measured.count >= settings.runs && lasted >= settings.minimumSeconds,
            fidelityOK: fidelity.allSatisfy { $0.isRight(minimumLatentPSNR: minimumLatentPSNR) },
            foreground: inSight.map { $0 && !events.contains { $0.kind == .background } },
            unlocked: unlocked.map { $0 && !events.contains { $0.kind == .lock } },
            notThrottled: states.isEmpty ? nil : !states.contains { hot.contains($0) }
        )
        emit(.phase(.finished))
        let engine = await pipeline.components.describe(false)
        let manifest = pipeline.bundle.manifest
        let watched = inSight != nil || !states.isEmpty
        var report = BenchReport(
            harness: probes.harness,
            harnessVersion: Self.harnessVersion,
            created: created.formatted(.iso8601),
            device: probes.device,
            bundleName: manifest.name,
            bundleSHA256: pipeline.bundle.manifestSHA256,
            target: manifest.target,
            backend: engine.backend,
            computeUnits: engine.computeUnits.mapValues(\.rawValue),
            placement: engine.placement,
            protocol: settings,
            timingsMS: timings,
            summaryMS: summaries(timings),
            memory: memory,
            thermal: thermal,
            energy: energy,
            fidelity: fidelity,
            validity: validity,
            missing: [:],
            events: watched ? events : nil
        )
        report.missing = missingReasons(report, known: probes.reasons)
        return report
    }

    /// Memory alone, for a process that does nothing else.
    package func memory(of golden: GoldenRun) async throws -> MemoryFigures {
        emit(.phase(.memory))
        var (figures, _) = try await memoryPass(golden, probes.clock.seconds)
        figures.ownLaunch = true
        return figures
    }

    /// The report with where operators run, for which the engine looks at the programs once more: ask when nothing is loaded.
    package func placed(_ report: BenchReport) async -> BenchReport {
        let engine = await pipeline.components.describe(true)
        var placed = report
        placed.backend = engine.backend
        placed.placement = engine.placement
        placed.missing = missingReasons(placed, known: probes.reasons)
        return placed
    }

    private func memoryPass(_ golden: GoldenRun, _ start: Double) async throws -> (MemoryFigures, Drawing) {
        let baseline = probes.memory.footprintBytes
        let recorder = ProbeRecorder(probes, pass: .memory, start: start, emit: emit)
        let drawing = try await ProbeRecorder.during(recorder, clock: probes.clock, thermalChanges: .finished) {
            if pipeline.residency == .resident {
                return try await drawLoadingFirst(golden)
            }
            return try await pipeline.draw(golden.spec.prompt, seed: golden.spec.seed)
        }
        let samples = await recorder.memory
        let peak = probes.memory.peakBytes ?? samples.map(\.bytes).max()
        let figures = MemoryFigures(
            baselineBytes: baseline, peakBytes: peak, method: probes.memory.method, samples: samples, ownLaunch: false
        )
        return (figures, drawing)
    }

    /// All components loaded before the first call, as an app does that keeps them.
    private func drawLoadingFirst(_ golden: GoldenRun) async throws -> Drawing {
        var loadMS: [String: Double] = [:]
        for (name, component) in pipeline.components.ofEveryDrawing {
            let began = probes.clock.milliseconds
            try await component.load()
            loadMS[name] = probes.clock.milliseconds - began
        }
        var drawing = try await pipeline.draw(golden.spec.prompt, seed: golden.spec.seed)
        drawing.loadMS = loadMS
        return drawing
    }

    /// Phases of loading by component, each loaded once more from what is compiled; nil where no engine keeps a record of first loads.
    private func loadPass() async throws -> [String: [String: Double]]? {
        var phases: [String: [String: Double]] = [:]
        for (name, component) in pipeline.components.ofEveryDrawing {
            guard let first = await component.firstLoad() else { continue }
            await component.unload()
            let began = probes.clock.milliseconds
            try await component.load()
            let parts: [(LoadPhase, Double?)] = [
                (.compile, first.compile), (.specialise, first.specialise), (.first, first.first),
                (.cached, probes.clock.milliseconds - began),
            ]
            for (phase, taken) in parts { phases[name, default: [:]][phase.rawValue] = taken }
            if pipeline.residency == .staged { await component.unload() }
        }
        return phases.isEmpty ? nil : phases
    }

    /// Rests until the device says that it is cool, or the limit is over: the report says which.
    private func waitUntilCool() async throws {
        var left = coolingSeconds
        while left > 0, let state = probes.thermal.state, state != .nominal {
            let rest = min(5, left)
            try await probes.clock.sleep(seconds: rest)
            left -= rest
        }
    }

    private func fidelityPass(_ runs: [GoldenRun], first: Drawing) async throws -> [Fidelity] {
        var results: [Fidelity] = []
        for (index, run) in runs.enumerated() {
            let drawing = index == 0 ? first : try await pipeline.draw(run.spec.prompt, seed: run.spec.seed)
            let fidelity = try Fidelity(drawing, against: run)
            results.append(fidelity)
            emit(.compared(drawn: try Picture(drawing.image), golden: try Picture(run.image), fidelity))
        }
        return results
    }

    private func timingPass(_ golden: GoldenRun) async throws -> ([Drawing], seconds: Double) {
        let start = probes.clock.seconds
        var drawings: [Drawing] = []
        repeat {
            try Task.checkCancellation()
            let drawing = try await pipeline.draw(golden.spec.prompt, seed: golden.spec.seed) { event in
                if case .called(let index, let milliseconds) = event { emit(.unetCall(index: index, milliseconds: milliseconds)) }
            }
            emit(.picture(milliseconds: drawing.totalMS))
            drawings.append(drawing)
            if probes.thermal.state == .critical { break }
        } while drawings.count < max(settings.runs, 1)
            || (probes.clock.seconds - start < settings.minimumSeconds && drawings.count < Self.maximumRuns)
        return (drawings, probes.clock.seconds - start)
    }

    private func summaries(_ timings: Timings) -> [String: Summary] {
        let samples = [
            "text_encoder": timings.textEncoder,
            "unet_call": timings.unetCall.flatMap { $0 },
            "vae_decoder": timings.vaeDecoder,
            "image": timings.image,
        ]
        return samples.compactMapValues { Summary($0) }
    }

    /// False when either is false, nil when either is unknown and none is false.
    private func both(_ first: Bool?, _ second: Bool?) -> Bool? {
        if first == false || second == false { return false }
        guard let first, let second else { return nil }
        return first && second
    }
}

extension AsyncStream {
    /// A stream that ends at once.
    package static var finished: AsyncStream { AsyncStream { $0.finish() } }
}
