import S2PMobile

/// Memory of this process. A figure that the system does not give is nil.
package protocol MemoryProbe: Sendable {
    /// How the figures are taken, e.g. "phys_footprint".
    var method: String { get }
    var footprintBytes: Int? { get }
    /// The kernel's own record of the largest footprint since the process began.
    var peakBytes: Int? { get }
}

/// As `ProcessInfo.ThermalState` names them.
package enum ThermalState: String, Sendable, CaseIterable {
    case nominal, fair, serious, critical
}

/// Heat of the device.
package protocol ThermalProbe: Sendable {
    var state: ThermalState? { get }
    /// Temperatures by sensor; empty where the system gives none.
    var celsius: [String: Double] { get }
    /// Every change of state while the stream is read; ends at once where the system does not tell.
    func changes() -> AsyncStream<ThermalState>
}

/// One look at the battery.
package struct BatteryReading: Equatable, Sendable {
    /// From 0 to 1.
    package var level: Double?
    package var unplugged: Bool?
    package var lowPowerMode: Bool?
    package var milliwatts: Double?

    package init(level: Double? = nil, unplugged: Bool? = nil, lowPowerMode: Bool? = nil, milliwatts: Double? = nil) {
        self.level = level
        self.unplugged = unplugged
        self.lowPowerMode = lowPowerMode
        self.milliwatts = milliwatts
    }
}

package protocol BatteryProbe: Sendable {
    func read() async -> BatteryReading
}

/// What happens to the app: whether it is in sight, and the device unlocked.
package protocol LifecycleProbe: Sendable {
    /// nil: there is no such thing here.
    func isForeground() async -> Bool?
    func isUnlocked() async -> Bool?
    /// Every change while the stream is read; ends at once where the system does not tell.
    func changes() -> AsyncStream<RunEvent.Kind>
}

/// For machines without a screen of apps.
package struct NoLifecycleProbe: LifecycleProbe {
    package init() {}
    package func isForeground() async -> Bool? { nil }
    package func isUnlocked() async -> Bool? { nil }
    package func changes() -> AsyncStream<RunEvent.Kind> { .finished }
}

/// What looks at the device. Each probe can be replaced alone.
package struct DeviceProbes: Sendable {
    package var clock: any DrawingClock
    package var memory: any MemoryProbe
    package var thermal: any ThermalProbe
    package var battery: any BatteryProbe
    package var lifecycle: any LifecycleProbe
    package var device: DeviceInfo
    package var harness: BenchReport.Harness
    /// Dotted path of a figure of the report -> why this device cannot give it.
    package var reasons: [String: String]

    package init(
        clock: any DrawingClock, memory: any MemoryProbe, thermal: any ThermalProbe, battery: any BatteryProbe,
        lifecycle: any LifecycleProbe = NoLifecycleProbe(), device: DeviceInfo, harness: BenchReport.Harness, reasons: [String: String]
    ) {
        self.clock = clock
        self.memory = memory
        self.thermal = thermal
        self.battery = battery
        self.lifecycle = lifecycle
        self.device = device
        self.harness = harness
        self.reasons = reasons
    }
}
