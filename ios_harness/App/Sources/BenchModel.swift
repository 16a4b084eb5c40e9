import Foundation
import Observation
import S2PBench
import S2PBenchCoreML
import S2PBenchProbes
import UIKit

/// What the screen shows. All measuring is in `BenchSession`; this only keeps its events.
@MainActor
@Observable
final class BenchModel {
    struct Point: Identifiable {
        let id: Int
        let x: Double
        let y: Double
    }

    struct Comparison {
        let drawn: UIImage?
        let golden: UIImage?
        let fidelity: Fidelity
    }

    private(set) var bundles: [String] = []
    var selected: String?
    /// For every program; nil: what the bundle says.
    var unit: ComputeUnit?
    private(set) var phase: BenchPhase?
    private(set) var calls: [Point] = []
    private(set) var memory: [Point] = []
    private(set) var thermal: [ThermalSample] = []
    private(set) var comparison: Comparison?
    private(set) var report: BenchReport?
    private(set) var problem: String?
    private var running: Task<Void, Never>?

    var isRunning: Bool { running != nil }
    var reportURL: URL { URL.documentsDirectory.appending(path: "report.json") }

    func refresh() {
        bundles = HeadlessRun.bundles(in: .documentsDirectory)
        if selected == nil || !bundles.contains(selected ?? "") { selected = bundles.first }
    }

    func start() {
        guard let bundle = selected, running == nil else { return }
        (calls, memory, thermal, comparison, report, problem) = ([], [], [], nil, nil, nil)
        running = Task {
            UIApplication.shared.isIdleTimerDisabled = true
            await measure(bundle)
            UIApplication.shared.isIdleTimerDisabled = false
            phase = nil
            running = nil
        }
    }

    func stop() {
        running?.cancel()
    }

    private func measure(_ bundle: String) async {
        let (events, feed) = AsyncStream<BenchEvent>.makeStream()
        let listening = Task { for await event in events { show(event) } }
        do {
            var options = try RunOptions(arguments: ["run", bundle])
            options.unit = unit
            let folder = URL.documentsDirectory
            let session = try await BenchSession(
                options: options, bundleFolder: folder.appending(path: bundle), outputFolder: folder,
                probes: await DeviceProbes.current(),
                makeComponents: { try await CoreMLBackend.components(of: $0, options: $1) }
            )
            report = try await session.run { feed.yield($0) }
        } catch is CancellationError {
            problem = "stopped"
        } catch {
            problem = (error as? BenchError)?.description ?? error.localizedDescription
        }
        feed.finish()
        await listening.value
    }

    private func show(_ event: BenchEvent) {
        switch event {
        case .phase(let phase): self.phase = phase
        case .unetCall(_, let milliseconds): calls.append(Point(id: calls.count, x: Double(calls.count), y: milliseconds))
        case .memory(let sample): memory.append(Point(id: memory.count, x: sample.seconds, y: Double(sample.bytes) / 1e6))
        case .thermal(let sample): thermal.append(sample)
        case .compared(let drawn, let golden, let fidelity):
            guard comparison == nil else { return }
            comparison = Comparison(drawn: UIImage(data: drawn.png()), golden: UIImage(data: golden.png()), fidelity: fidelity)
        case .picture, .battery: break
        }
    }
}
