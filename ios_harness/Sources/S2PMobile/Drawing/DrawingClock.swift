/// Time since an arbitrary start that never goes back.
package protocol DrawingClock: Sendable {
    var milliseconds: Double { get }
    func sleep(seconds: Double) async throws
}

extension DrawingClock {
    package var seconds: Double { milliseconds / 1000 }
}

/// `ContinuousClock`: goes on while the device sleeps.
package struct SystemClock: DrawingClock {
    private let start = ContinuousClock.now

    package init() {}

    package var milliseconds: Double {
        (ContinuousClock.now - start).milliseconds
    }

    package func sleep(seconds: Double) async throws {
        try await ContinuousClock().sleep(for: .seconds(seconds))
    }
}

extension Duration {
    package var milliseconds: Double { Double(components.seconds) * 1e3 + Double(components.attoseconds) * 1e-15 }
}
