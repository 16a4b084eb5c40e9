/// What a screen draws of a measurement, from its events.
package struct BenchCharts: Sendable {
    package struct Point: Identifiable, Sendable {
        package let id: Int
        package let x: Double
        package let y: Double
    }

    /// (call, milliseconds)
    package private(set) var calls: [Point] = []
    /// (seconds, megabytes)
    package private(set) var memory: [Point] = []
    package private(set) var thermal: [ThermalSample] = []
    private var phase: BenchPhase?

    package init() {}

    package mutating func add(_ event: BenchEvent) {
        switch event {
        case .phase(let phase): self.phase = phase
        case .unetCall(_, let milliseconds): calls.append(Point(id: calls.count, x: Double(calls.count), y: milliseconds))
        case .memory(let sample): memory.append(Point(id: memory.count, x: sample.seconds, y: Double(sample.bytes) / 1e6))
        case .thermal(let sample): thermal.append(sample)
        case .compared, .picture, .battery: break
        }
    }

    /// Whether a screen may draw this now: never while pictures are measured, which drawing would disturb.
    package var mayShow: Bool { phase != .timing }
}
