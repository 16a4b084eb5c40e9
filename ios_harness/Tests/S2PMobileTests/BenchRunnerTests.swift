import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile
import S2PBenchProbes

@Suite(.timeLimit(.minutes(1))) struct BenchRunnerTests {
    private let clock = JumpingClock()
    private let thermal = SettableThermal(.nominal)
    private let log = EventLog()

    private func probes(_ change: (inout DeviceProbes) -> Void = { _ in }) -> DeviceProbes {
        var probes = DeviceProbes(
            clock: clock, memory: FixedMemory(), thermal: thermal, battery: FixedBattery(),
            device: DeviceInfo(model: "Double1,1", os: "test", soc: nil, memoryBytes: 1, cores: 2), harness: .ios,
            reasons: ["device.soc": "a test double has none"]
        )
        change(&probes)
        return probes
    }

    private static let quick = BenchProtocol(warmupRuns: 0, runs: 1, cooldownSeconds: 0, minimumSeconds: 0)

    private func run(
        _ settings: BenchProtocol, residency: Residency = .resident, probes: DeviceProbes? = nil, instrument: Instrument? = nil,
        minimumPSNR: Double = 30, folder: URL = Fixtures.replay
    ) async throws -> BenchReport {
        let bundle = try ModelBundle(opening: folder)
        let instrument = instrument ?? Instrument { [clock] in clock.advance(milliseconds: $0) }
        let pipeline = try ImagePipeline(
            bundle: bundle, components: instrument.wrap(Replay.components(of: bundle)), residency: residency, clock: clock
        )
        let runner = try BenchRunner(
            pipeline: pipeline, probes: probes ?? self.probes(), settings: settings, minimumLatentPSNR: minimumPSNR
        ) { [log] in log.append($0) }
        let report = try await runner.run(goldenRuns: [Replay.recordedRun(of: bundle)])
        // Whatever was measured, the report must be one that Python opens: read it back through the contract.
        #expect(try decodeContract(BenchReport.self, from: encodeContract(report), name: "report") == report)
        return report
    }

    @Test func measuresWithTheGivenClock() async throws {
        let report = try await run(BenchProtocol(warmupRuns: 2, runs: 3, cooldownSeconds: 5, minimumSeconds: 0))
        // One picture: two texts of 2 ms, six calls of 100 ms, 8 ms of decoder; loads happen before, and again as no-ops
        // of 16 + 64 + 32 ms that this double charges every time.
        #expect(report.timingsMS.load == ["text_encoder": 16, "unet": 64, "vae_decoder": 32])
        #expect(report.timingsMS.textEncoder == [4, 4, 4])
        #expect(report.timingsMS.unetCall == [[Double]](repeating: [Double](repeating: 100, count: 6), count: 3))
        #expect(report.timingsMS.vaeDecoder == [8, 8, 8])
        #expect(report.timingsMS.image == [724, 724, 724])
        #expect(report.summaryMS["unet_call"]?.count == 18)
        #expect(clock.sleeps == [5])
        #expect(report.memory == MemoryFigures(baselineBytes: 100, peakBytes: 250, method: "a fixed figure", samples: report.memory.samples, ownLaunch: false))
        #expect(report.memory.samples.map(\.bytes) == [100, 100])
        #expect(report.thermal.map(\.state) == ["nominal", "nominal"])
        #expect(report.energy.map(\.batteryLevel) == [0.5, 0.5])
        #expect(report.energy.map(\.seconds) == report.thermal.map(\.seconds))
        #expect(
            report.validity
                == Validity(
                    unplugged: true, lowPowerModeOff: true, thermalNominalAtStart: true, minimumDurationMet: true, fidelityOK: true,
                    notThrottled: true
                )
        )
        #expect(report.missing["device.soc"] == "a test double has none")
        #expect(report.missing["energy.milliwatts"] != nil && report.missing["thermal"] == nil)
        #expect(report.backend["unet"] == "replay of golden run first")
        #expect(report.fidelity.map(\.goldenID) == ["first"] && report.fidelity[0].latentMaxAbs <= 1e-5)
    }

    @Test func goesOnUntilTheMinimumDuration() async throws {
        let report = try await run(BenchProtocol(warmupRuns: 0, runs: 1, cooldownSeconds: 0, minimumSeconds: 2))
        // Pictures of 724 ms: the third ends after 2.172 s.
        #expect(report.timingsMS.image.count == 3)
        #expect(report.validity.minimumDurationMet)
    }

    @Test func stopsWhenTheDeviceIsCriticallyHot() async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        let calls = Counter()
        instrument.atCall = { [thermal] _ in
            // Calls 0-5 belong to the memory pass, 6-11 to the first timed picture.
            if calls.next() == 8 { thermal.set(.critical) }
        }
        let settings = BenchProtocol(warmupRuns: 0, runs: 5, cooldownSeconds: 0, minimumSeconds: 0)
        let report = try await run(settings, instrument: instrument)
        #expect(report.timingsMS.image.count == 1)
        #expect(!report.validity.minimumDurationMet)
        #expect(report.validity.thermalNominalAtStart == true)
        #expect(report.thermal.last?.state == "critical")
    }

    @Test func stagedLoadsAndReleasesPerPicture() async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        let settings = BenchProtocol(warmupRuns: 0, runs: 2, cooldownSeconds: 0, minimumSeconds: 0)
        let report = try await run(settings, residency: .staged, instrument: instrument)
        for name in ["text_encoder", "unet", "vae_decoder"] {
            #expect(instrument.count("load \(name)") == 3)
            #expect(instrument.count("unload \(name)") == 3)
        }
        #expect(report.timingsMS.load == ["text_encoder": 16, "unet": 64, "vae_decoder": 32])
    }

    /// Pictures are measured from noise: what encodes one to start from takes neither time nor memory, and is not in the report.
    @Test(arguments: Residency.allCases)
    func anEncoderOfPicturesIsNotTouched(_ residency: Residency) async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        instrument.firstLoad = { _ in FirstLoad(compile: 1, specialise: nil, first: 2) }
        let report = try await run(Self.quick, residency: residency, instrument: instrument, folder: Fixtures.picture)
        #expect(!instrument.notes.contains { $0.contains("vae_encoder") || $0 == "encode picture" })
        #expect(report.timingsMS.load.keys.sorted() == ["text_encoder", "unet", "vae_decoder"])
        #expect(report.timingsMS.loadPhases?.keys.sorted() == ["text_encoder", "unet", "vae_decoder"])
        #expect(report.backend.keys.sorted() == ["text_encoder", "unet", "vae_decoder"] && report.validity.fidelityOK)
    }

    @Test func residentLoadsOnceMoreOnlyAsANoOp() async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        _ = try await run(BenchProtocol(warmupRuns: 0, runs: 2, cooldownSeconds: 0, minimumSeconds: 0), instrument: instrument)
        #expect(instrument.count("unload unet") == 0)
    }

    @Test func everyMissingFigureHasAReason() async throws {
        let bare = probes { probes in
            probes.memory = FixedMemory(footprintBytes: nil, peakBytes: nil)
            probes.thermal = SettableThermal(nil)
            probes.battery = FixedBattery(reading: BatteryReading())
            probes.device = DeviceInfo(model: "m", os: "o", soc: nil, memoryBytes: nil, cores: nil)
        }
        let report = try await run(BenchProtocol(warmupRuns: 0, runs: 1, cooldownSeconds: 0, minimumSeconds: 0), probes: bare)
        let document = try JSONSerialization.jsonObject(with: encodeContract(report))
        for path in emptyPaths(document) where path != "missing" {
            #expect(report.missing[path]?.isEmpty == false, "\(path) has no reason")
        }
        #expect(Set(report.missing.keys) == Set(emptyPaths(document)))
    }

    @Test func chargerAndLowPowerModeAreTold() async throws {
        let plugged = probes { $0.battery = FixedBattery(reading: BatteryReading(level: 1, unplugged: false, lowPowerMode: true)) }
        let report = try await run(BenchProtocol(warmupRuns: 0, runs: 1, cooldownSeconds: 0, minimumSeconds: 0), probes: plugged)
        #expect(report.validity.unplugged == false && report.validity.lowPowerModeOff == false)
    }

    @Test func tellsItsPhasesInOrder() async throws {
        _ = try await run(BenchProtocol(warmupRuns: 0, runs: 1, cooldownSeconds: 0, minimumSeconds: 0))
        let phases = log.events.compactMap { if case .phase(let phase) = $0 { phase } else { nil } }
        #expect(phases == BenchPhase.allCases)
        let pictures = log.events.compactMap { if case .compared(let drawn, let golden, _) = $0 { (drawn, golden) } else { nil } }
        #expect(pictures.count == 1 && pictures.allSatisfy { $0 == $1 })
    }

    /// 600 seconds at most, five at a time; the report says that it was not cool.
    @Test func waitsForAWarmDeviceButNotForever() async throws {
        let warm = SettableThermal(.fair)
        let report = try await run(Self.quick, probes: probes { $0.thermal = warm })
        #expect(clock.sleeps.reduce(0, +) == 600 && Set(clock.sleeps) == [5])
        #expect(report.validity.thermalNominalAtStart == false && report.validity.notThrottled == true)
    }

    @Test func beginsAsSoonAsTheDeviceIsCool() async throws {
        let warm = CoolingThermal(after: 3)
        let report = try await run(Self.quick, probes: probes { $0.thermal = warm })
        #expect(clock.sleeps == [5, 5, 5] && report.validity.thermalNominalAtStart == true)
    }

    @Test func tellsThatTheAppWasLeftAndTheDeviceLocked() async throws {
        let app = SettableLifecycle()
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        let calls = Counter()
        instrument.atCall = { _ in
            // Calls 0-5 belong to the memory pass, 6-11 to the timed picture.
            if calls.next() == 8 { [.lock, .background, .unlock, .foreground].forEach(app.tell) }
        }
        let report = try await run(Self.quick, probes: probes { $0.lifecycle = app }, instrument: instrument)
        #expect(report.validity.foreground == false && report.validity.unlocked == false)
        let kinds = report.events?.map(\.kind)
        #expect(kinds == [.lock, .background, .unlock, .foreground])
        let calm = try await run(Self.quick, probes: probes { $0.lifecycle = SettableLifecycle() })
        #expect(calm.validity.foreground == true && calm.validity.unlocked == true && calm.events == [])
    }

    @Test func throttlingIsAnEventAndMakesTheRunSuspect() async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        let calls = Counter()
        instrument.atCall = { [thermal] _ in if calls.next() == 8 { thermal.set(.serious) } }
        let report = try await run(Self.quick, instrument: instrument)
        #expect(report.validity.notThrottled == false && report.validity.thermalNominalAtStart == true)
        #expect(report.events?.map(\.kind) == [.thermal] && report.events?.first?.state == "serious")
    }

    /// Power is that of the measured pictures: nothing is read before they begin or after they end.
    @Test func energyComesFromTheMeasuredPicturesAlone() async throws {
        let report = try await run(BenchProtocol(warmupRuns: 1, runs: 2, cooldownSeconds: 50, minimumSeconds: 0))
        // Loads of 112 ms, two pictures of 724 ms (memory pass and warm-up), fifty seconds of rest; then two pictures.
        let begin = 0.112 + 2 * 0.724 + 50
        #expect(report.energy.map(\.seconds).allSatisfy { $0 >= begin - 1e-9 && $0 <= begin + 2 * 0.724 + 1e-9 })
        #expect(report.energy.count == 2)
    }

    @Test func tellsCompilationAndFirstLoadFromTheCachedOne() async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        instrument.firstLoad = { $0 == "unet" ? FirstLoad(compile: 9000, first: 400) : nil }
        let report = try await run(Self.quick, instrument: instrument)
        #expect(report.timingsMS.loadPhases == ["unet": ["compile": 9000, "first": 400, "cached": 64]])
        #expect(report.timingsMS.load["unet"] == 64 && instrument.count("unload unet") == 1)
        #expect(report.missing["timings_ms.load_phases.unet.specialise"] != nil)
        #expect(try await run(Self.quick).timingsMS.loadPhases == nil)
        // An engine that tells the two apart, as Core AI does.
        instrument.firstLoad = { $0 == "unet" ? FirstLoad(specialise: 7000, first: 300) : nil }
        let apart = try await run(Self.quick, instrument: instrument)
        #expect(apart.timingsMS.loadPhases == ["unet": ["specialise": 7000, "first": 300, "cached": 64]])
        #expect(apart.missing["timings_ms.load_phases.unet.specialise"] == nil)
        #expect(apart.missing["timings_ms.load_phases.unet.compile"] != nil)
    }

    /// The latents are right and the decoder is not.
    @Test func aWrongDecoderFailsTheCheck() async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        instrument.decoded = { image in Tensor(shape: image.shape, data: image.data.map { -$0 }) }
        let report = try await run(Self.quick, instrument: instrument)
        #expect(report.fidelity[0].latentMaxAbs <= 1e-5 && (report.fidelity[0].imagePSNR ?? .infinity) < 20)
        #expect(!report.validity.fidelityOK)
    }

    @Test func endsWhenCancelled() async throws {
        let instrument = Instrument { [clock] in clock.advance(milliseconds: $0) }
        instrument.atCall = { if $0 == 3 { throw CancellationError() } }
        await #expect(throws: CancellationError.self) {
            try await run(BenchProtocol(warmupRuns: 0, runs: 1, cooldownSeconds: 0, minimumSeconds: 0), instrument: instrument)
        }
    }

    @Test func anotherPictureFailsTheCheck() throws {
        let bundle = try ModelBundle(opening: Fixtures.replay)
        let golden = try Replay.recordedRun(of: bundle)
        var latents = golden.quantizedLatents
        let range = Double((latents.data.max() ?? 0) - (latents.data.min() ?? 0))
        for index in latents.data.indices { latents.data[index] += 0.5 }
        let drawing = Drawing(
            latents: latents, image: golden.image, loadMS: [:], textEncoderMS: 0, unetCallMS: [], decoderMS: 0, totalMS: 0
        )
        let fidelity = try Fidelity(drawing, against: golden)
        // A shift by 1/2 everywhere: mse 1/4, up to float32 rounding of values below 64 (4e-6).
        #expect(abs(fidelity.latentMaxAbs - 0.5) < 1e-5)
        #expect(abs((fidelity.latentPSNR ?? 0) - 10 * log10(4 * range * range)) < 1e-3)
        latents.data[0] = .nan
        let broken = Drawing(
            latents: latents, image: golden.image, loadMS: [:], textEncoderMS: 0, unetCallMS: [], decoderMS: 0, totalMS: 0
        )
        #expect(thrownError { _ = try Fidelity(broken, against: golden) }?.kind == "backend")
    }

    @Test func samplesOnceASecondWhileWorkGoesOn() async throws {
        let manual = ManualClock()
        let probes = probes { $0.clock = manual }
        let recorder = ProbeRecorder(probes, pass: .memory, start: 0) { _ in }
        try await ProbeRecorder.during(recorder, clock: manual, thermalChanges: .finished) {
            for second in 1...3 {
                // The sampler must be asleep before the clock moves on.
                while manual.sleepers == 0 { await Task.yield() }
                manual.advance(milliseconds: 1000)
                while await recorder.memory.count < second + 1 { await Task.yield() }
            }
        }
        #expect(await recorder.memory.map(\.seconds) == [0, 1, 2, 3, 3])
        #expect(await recorder.thermal.isEmpty)
    }

    @Test func recordsChangesOfTheThermalState() async throws {
        let recorder = ProbeRecorder(probes(), pass: .timing, start: 0) { _ in }
        try await ProbeRecorder.during(recorder, clock: clock, thermalChanges: thermal.changes()) {
            thermal.set(.serious)
            while await recorder.thermal.count < 2 { await Task.yield() }
        }
        #expect(await recorder.thermal.map(\.state) == ["nominal", "serious", "serious"])
        #expect(await recorder.memory.isEmpty)
    }

    @Test func realProbesOfThisMachineAnswer() async throws {
        let probes = await DeviceProbes.current()
        let footprint = try #require(probes.memory.footprintBytes)
        let peak = try #require(probes.memory.peakBytes)
        #expect(footprint > 1_000_000 && peak >= 1_000_000)
        #expect((probes.device.memoryBytes ?? 0) > footprint)
    }

    /// Dotted paths of nulls and empty lists of the report's top two levels that the schema calls missing figures.
    private func emptyPaths(_ document: Any) -> [String] {
        guard let fields = document as? [String: Any] else { return [] }
        return fields.flatMap { key, value -> [String] in
            if (value as? [Any])?.isEmpty == true || (value as? [String: Any])?.isEmpty == true { return [key] }
            if let list = value as? [[String: Any]] {
                return list.enumerated().flatMap { index, item in
                    item.filter { $0.value is NSNull }.map { "\(key).\(index).\($0.key)" }
                }
            }
            guard let inner = value as? [String: Any] else { return value is NSNull ? [key] : [] }
            return inner.filter { $0.value is NSNull || ($0.value as? [Any])?.isEmpty == true }.map { "\(key).\($0.key)" }
        }
    }
}

/// Counts from 0 across threads.
final class Counter: @unchecked Sendable {
    private let lock = NSLock()
    private var value = 0

    func next() -> Int {
        lock.withLock {
            defer { value += 1 }
            return value
        }
    }
}
