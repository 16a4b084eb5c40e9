/// Time since an arbitrary start that never goes back.
public protocol BenchClock: Sendable {
    var milliseconds: Double { get }
    func sleep(seconds: Double) async throws
}

extension BenchClock {
    public var seconds: Double { milliseconds / 1000 }
}

/// `ContinuousClock`: goes on while the device sleeps.
public struct SystemClock: BenchClock {
    private let start = ContinuousClock.now

    public init() {}

    public var milliseconds: Double {
        let (seconds, attoseconds) = (ContinuousClock.now - start).components
        return Double(seconds) * 1e3 + Double(attoseconds) * 1e-15
    }

    public func sleep(seconds: Double) async throws {
        try await ContinuousClock().sleep(for: .seconds(seconds))
    }
}

/// Memory of this process. A figure that the system does not give is nil.
public protocol MemoryProbe: Sendable {
    /// How the figures are taken, e.g. "phys_footprint".
    var method: String { get }
    var footprintBytes: Int? { get }
    /// The kernel's own record of the largest footprint since the process began.
    var peakBytes: Int? { get }
    /// What the process may still allocate before the system ends it.
    var availableBytes: Int? { get }
}

/// As `ProcessInfo.ThermalState` names them.
public enum ThermalState: String, Sendable, CaseIterable {
    case nominal, fair, serious, critical
}

/// Heat of the device.
public protocol ThermalProbe: Sendable {
    var state: ThermalState? { get }
    /// Temperatures by sensor; empty where the system gives none.
    var celsius: [String: Double] { get }
    /// Every change of state while the stream is read; ends at once where the system does not tell.
    func changes() -> AsyncStream<ThermalState>
}

/// One look at the battery.
public struct BatteryReading: Equatable, Sendable {
    /// From 0 to 1.
    public var level: Double?
    public var unplugged: Bool?
    public var lowPowerMode: Bool?
    public var milliwatts: Double?

    public init(level: Double? = nil, unplugged: Bool? = nil, lowPowerMode: Bool? = nil, milliwatts: Double? = nil) {
        self.level = level
        self.unplugged = unplugged
        self.lowPowerMode = lowPowerMode
        self.milliwatts = milliwatts
    }
}

public protocol BatteryProbe: Sendable {
    func read() async -> BatteryReading
}

/// What looks at the device. Each probe can be replaced alone.
public struct DeviceProbes: Sendable {
    public var clock: any BenchClock
    public var memory: any MemoryProbe
    public var thermal: any ThermalProbe
    public var battery: any BatteryProbe
    public var device: DeviceInfo
    public var harness: BenchReport.Harness
    /// Dotted path of a figure of the report -> why this device cannot give it.
    public var reasons: [String: String]

    public init(
        clock: any BenchClock, memory: any MemoryProbe, thermal: any ThermalProbe, battery: any BatteryProbe,
        device: DeviceInfo, harness: BenchReport.Harness, reasons: [String: String]
    ) {
        self.clock = clock
        self.memory = memory
        self.thermal = thermal
        self.battery = battery
        self.device = device
        self.harness = harness
        self.reasons = reasons
    }
}
