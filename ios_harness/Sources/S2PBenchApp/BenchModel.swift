#if os(iOS)
import Foundation
import Observation
import S2PBench
import S2PBenchProbes
import S2PMobile
import UIKit

/// What the screen shows. All measuring is in `BenchSession`; this only keeps its events.
@MainActor
@Observable
final class BenchModel {
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
    /// What the charts show. While pictures are measured they stand still: drawing them would disturb the figures.
    private(set) var charts = BenchCharts()
    private(set) var comparison: Comparison?
    private(set) var report: BenchReport?
    private(set) var problem: String?
    /// All that came, shown or not.
    @ObservationIgnored private var collected = BenchCharts()
    private var running: Task<Void, Never>?

    var isRunning: Bool { running != nil }
    var reportURL: URL { URL.documentsDirectory.appending(path: "report.json") }

    func refresh() {
        bundles = HeadlessRun.bundles(in: .documentsDirectory)
        if selected == nil || !bundles.contains(selected ?? "") { selected = bundles.first }
    }

    func start() {
        guard let bundle = selected, running == nil else { return }
        (charts, comparison, report, problem) = (BenchCharts(), nil, nil, nil)
        collected = BenchCharts()
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
                makeComponents: { try await Engine.components(of: $0, options: $1) }
            )
            report = try await session.run { feed.yield($0) }
        } catch is CancellationError {
            problem = "stopped"
        } catch {
            problem = (error as? S2PError)?.description ?? error.localizedDescription
        }
        feed.finish()
        await listening.value
    }

    private func show(_ event: BenchEvent) {
        switch event {
        case .phase(let phase): self.phase = phase
        case .compared(let drawn, let golden, let fidelity):
            guard comparison == nil else { break }
            comparison = Comparison(drawn: UIImage(data: drawn.png()), golden: UIImage(data: golden.png()), fidelity: fidelity)
        case .unetCall, .memory, .thermal, .picture, .battery: break
        }
        collected.add(event)
        if collected.mayShow { charts = collected }
    }
}
#endif
