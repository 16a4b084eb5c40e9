import Foundation

@testable import S2PBench
@testable import S2PMobile

/// A clock that only moves when told to. A sleeper waits until somebody has moved the clock far enough, or is cancelled.
final class ManualClock: DrawingClock, @unchecked Sendable {
    private let lock = NSLock()
    private var now = 0.0
    private var asleep = 0

    var milliseconds: Double { lock.withLock { now } }
    var sleepers: Int { lock.withLock { asleep } }

    func advance(milliseconds: Double) { lock.withLock { now += milliseconds } }

    func sleep(seconds: Double) async throws {
        let end = lock.withLock {
            asleep += 1
            return now + 1000 * seconds
        }
        defer { lock.withLock { asleep -= 1 } }
        while milliseconds < end {
            try await Task.sleep(for: .milliseconds(1))
        }
    }
}

/// A clock whose sleepers wake at once and move it, for the rest between passes.
final class JumpingClock: DrawingClock, @unchecked Sendable {
    private let lock = NSLock()
    private var now = 0.0
    private var slept: [Double] = []

    var milliseconds: Double { lock.withLock { now } }
    var sleeps: [Double] { lock.withLock { slept } }

    func advance(milliseconds: Double) { lock.withLock { now += milliseconds } }

    func sleep(seconds: Double) async throws {
        // The 1 Hz sampler would spin: it sleeps for real, and longer than any test runs.
        if seconds == 1 { return try await Task.sleep(for: .seconds(3600)) }
        lock.withLock {
            now += seconds * 1000
            slept.append(seconds)
        }
    }
}

struct FixedMemory: MemoryProbe {
    var method = "a fixed figure"
    var footprintBytes: Int? = 100
    var peakBytes: Int? = 250
}

/// A thermal state that a test sets.
final class SettableThermal: ThermalProbe, @unchecked Sendable {
    private let lock = NSLock()
    private var current: ThermalState?
    private var listeners: [AsyncStream<ThermalState>.Continuation] = []

    init(_ state: ThermalState?) { current = state }

    var state: ThermalState? { lock.withLock { current } }
    var celsius: [String: Double] { [:] }

    func changes() -> AsyncStream<ThermalState> {
        AsyncStream { continuation in lock.withLock { listeners.append(continuation) } }
    }

    func set(_ state: ThermalState) {
        lock.withLock {
            current = state
            listeners.forEach { $0.yield(state) }
        }
    }
}

/// Warm until it was asked so often.
final class CoolingThermal: ThermalProbe, @unchecked Sendable {
    private let left: Counter
    private let after: Int

    init(after: Int) {
        self.after = after
        left = Counter()
    }

    var state: ThermalState? { left.next() < after ? .serious : .nominal }
    var celsius: [String: Double] { [:] }
    func changes() -> AsyncStream<ThermalState> { .finished }
}

/// An app that is in sight on an unlocked device, until a test tells otherwise.
final class SettableLifecycle: LifecycleProbe, @unchecked Sendable {
    private let lock = NSLock()
    private var listeners: [AsyncStream<RunEvent.Kind>.Continuation] = []
    private var told: [RunEvent.Kind] = []

    func isForeground() async -> Bool? { true }
    func isUnlocked() async -> Bool? { true }

    func changes() -> AsyncStream<RunEvent.Kind> {
        AsyncStream { continuation in
            lock.withLock {
                listeners.append(continuation)
                told.forEach { continuation.yield($0) }
            }
        }
    }

    func tell(_ kind: RunEvent.Kind) {
        lock.withLock {
            told.append(kind)
            listeners.forEach { $0.yield(kind) }
        }
    }
}

struct FixedBattery: BatteryProbe {
    var reading = BatteryReading(level: 0.5, unplugged: true, lowPowerMode: false)
    func read() async -> BatteryReading { reading }
}

/// Collects what a runner tells.
final class EventLog: @unchecked Sendable {
    private let lock = NSLock()
    private var list: [BenchEvent] = []

    var events: [BenchEvent] { lock.withLock { list } }
    func append(_ event: BenchEvent) { lock.withLock { list.append(event) } }
}

/// Wraps replayed components: counts loads, moves a clock, and may do something at a call.
final class Instrument: @unchecked Sendable {
    private let lock = NSLock()
    private var told: [String] = []
    private let advance: @Sendable (Double) -> Void
    var atCall: @Sendable (Int) throws -> Void = { _ in }
    /// What loading took the first time, by component.
    var firstLoad: @Sendable (String) -> FirstLoad? = { _ in nil }
    /// What becomes of the moments of an encoded picture.
    var encoded: @Sendable (Tensor) -> Tensor = { $0 }
    /// What becomes of a decoded picture.
    var decoded: @Sendable (Tensor) -> Tensor = { $0 }
    /// In the place of what the replay says of itself.
    var describe: (@Sendable (Bool) async -> EngineDescription)?

    init(advance: @escaping @Sendable (Double) -> Void) { self.advance = advance }

    /// All that was done, in order.
    var notes: [String] { lock.withLock { told } }
    func count(_ name: String) -> Int { notes.count { $0 == name } }
    fileprivate func note(_ name: String, milliseconds: Double = 0) {
        lock.withLock { told.append(name) }
        advance(milliseconds)
    }

    func wrap(_ set: ComponentSet) -> ComponentSet {
        ComponentSet(
            encoder: set.encoder.map { Encoder(inner: $0, log: self) }, textEncoder: Text(inner: set.textEncoder, log: self),
            timeTable: set.timeTable.map { Table(inner: $0, log: self) }, unet: UNet(inner: set.unet, log: self),
            decoder: Decoder(inner: set.decoder, log: self), isReplay: true, describe: describe ?? set.describe
        )
    }

    private struct Encoder: ImageEncoding, Logged {
        let inner: any ImageEncoding
        let log: Instrument
        var loading: (name: String, milliseconds: Double) { ("vae_encoder", 4) }
        func encode(_ image: Tensor) async throws -> Tensor {
            log.note("encode picture", milliseconds: 4)
            return log.encoded(try await inner.encode(image))
        }
    }

    private struct Text: TextEncoding, Logged {
        let inner: any TextEncoding
        let log: Instrument
        var loading: (name: String, milliseconds: Double) { ("text_encoder", 16) }
        func encode(_ tokenIDs: [Int32]) async throws -> Tensor {
            log.note("encode", milliseconds: 2)
            return try await inner.encode(tokenIDs)
        }
        func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
            log.note("encode", milliseconds: 2)
            return try await inner.encodePooled(tokenIDs, second: second)
        }
    }

    private struct Table: TimeTabling, Logged {
        let inner: any TimeTabling
        let log: Instrument
        var loading: (name: String, milliseconds: Double) { ("time_table", 8) }
        func timeTable(pooled: Tensor, timeIDs: Tensor) async throws -> Tensor {
            log.note("table", milliseconds: 1)
            return try await inner.timeTable(pooled: pooled, timeIDs: timeIDs)
        }
    }

    private struct UNet: Denoising, Logged {
        let inner: any Denoising
        let log: Instrument
        var loading: (name: String, milliseconds: Double) { ("unet", 64) }
        func predict(sample: Tensor, step: Int, embeddings: Tensor, timeTable: Tensor?) async throws -> Tensor {
            log.note("predict", milliseconds: 100)
            try log.atCall(step)
            return try await inner.predict(sample: sample, step: step, embeddings: embeddings, timeTable: timeTable)
        }
    }

    private struct Decoder: ImageDecoding, Logged {
        let inner: any ImageDecoding
        let log: Instrument
        var loading: (name: String, milliseconds: Double) { ("vae_decoder", 32) }
        func decode(_ latents: Tensor) async throws -> Tensor {
            log.note("decode", milliseconds: 8)
            return log.decoded(try await inner.decode(latents))
        }
    }
}

/// A wrapped component that tells of its loads.
private protocol Logged: PipelineComponent {
    var log: Instrument { get }
    var loading: (name: String, milliseconds: Double) { get }
}

extension Logged {
    func load() async throws { log.note("load \(loading.name)", milliseconds: loading.milliseconds) }
    func unload() async { log.note("unload \(loading.name)") }
    func firstLoad() async -> FirstLoad? { log.firstLoad(loading.name) }
}
