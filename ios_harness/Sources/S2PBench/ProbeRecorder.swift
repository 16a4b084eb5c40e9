import S2PMobile

/// What the harness tells a screen or a terminal while it runs.
package enum BenchEvent: Sendable {
    case phase(BenchPhase)
    /// Milliseconds of one U-Net call.
    case unetCall(index: Int, milliseconds: Double)
    /// Milliseconds of one measured picture.
    case picture(milliseconds: Double)
    case memory(MemorySample)
    case thermal(ThermalSample)
    case battery(EnergySample)
    /// A golden run drawn on this device, beside the recorded picture.
    case compared(drawn: Picture, golden: Picture, Fidelity)
}

/// Where a measurement stands.
package enum BenchPhase: String, Sendable, CaseIterable {
    case memory, fidelity, warmUp = "warm-up", coolDown = "cool-down", timing, finished
}

/// Collects samples at 1 Hz, the first at once and the last when the pass ends.
///
/// Memory is sampled in a pass of its own, because reading it disturbs the latency.
actor ProbeRecorder {
    enum Pass: Sendable {
        case memory, timing
    }

    private let probes: DeviceProbes
    private let pass: Pass
    private let start: Double
    private let emit: @Sendable (BenchEvent) -> Void
    private(set) var memory: [MemorySample] = []
    private(set) var thermal: [ThermalSample] = []
    private(set) var energy: [EnergySample] = []
    /// Of the timing pass, its seconds counted from when the pass began.
    private(set) var events: [RunEvent] = []
    private let passStart: Double

    init(_ probes: DeviceProbes, pass: Pass, start: Double, emit: @escaping @Sendable (BenchEvent) -> Void) {
        self.probes = probes
        self.pass = pass
        self.start = start
        self.emit = emit
        passStart = probes.clock.seconds
    }

    /// Runs `body` while sampling; a sample is taken before and after it, too.
    static func during<Result: Sendable>(
        _ recorder: ProbeRecorder, clock: any DrawingClock, thermalChanges: AsyncStream<ThermalState>,
        _ body: () async throws -> Result
    ) async throws -> Result {
        await recorder.sample()
        let ticking = Task {
            while !Task.isCancelled {
                try await clock.sleep(seconds: 1)
                await recorder.sample()
            }
        }
        let listening = Task {
            for await state in thermalChanges { await recorder.record(thermal: state) }
        }
        let changes = recorder.lifecycleChanges
        let watching = Task {
            for await kind in changes { await recorder.record(kind) }
        }
        defer {
            ticking.cancel()
            listening.cancel()
            watching.cancel()
        }
        let result = try await body()
        await recorder.sample()
        // What was told before the end still lies in the stream: a cancelled one is read to its end.
        watching.cancel()
        await watching.value
        return result
    }

    func sample() async {
        switch pass {
        case .memory:
            guard let bytes = probes.memory.footprintBytes else { return }
            let sample = MemorySample(seconds: probes.clock.seconds - start, bytes: bytes)
            memory.append(sample)
            emit(.memory(sample))
        case .timing:
            record(thermal: probes.thermal.state)
            let reading = await probes.battery.read()
            guard reading.level != nil || reading.milliwatts != nil else { return }
            let seconds = probes.clock.seconds - start
            let sample = EnergySample(seconds: seconds, milliwatts: reading.milliwatts, batteryLevel: reading.level)
            energy.append(sample)
            emit(.battery(sample))
        }
    }

    nonisolated var lifecycleChanges: AsyncStream<RunEvent.Kind> {
        pass == .timing ? probes.lifecycle.changes() : .finished
    }

    func record(_ kind: RunEvent.Kind) {
        events.append(RunEvent(seconds: probes.clock.seconds - passStart, kind: kind))
    }

    func record(thermal state: ThermalState?) {
        let celsius = probes.thermal.celsius
        guard pass == .timing, state != nil || !celsius.isEmpty else { return }
        let sample = ThermalSample(seconds: probes.clock.seconds - start, state: state?.rawValue, celsius: celsius)
        if let state, let before = thermal.last?.state, before != state.rawValue {
            events.append(RunEvent(seconds: probes.clock.seconds - passStart, kind: .thermal, state: state.rawValue))
        }
        thermal.append(sample)
        emit(.thermal(sample))
    }
}
