#if os(iOS)
import S2PBench
import S2PBenchProbes
import SwiftUI

/// All of the bench app: the screen, and what a driver launches without it. The app project adds `@main` and nothing else.
public struct BenchRoot: View {
    @State private var model = BenchModel()

    public init() {}

    public var body: some View {
        BenchScreen(model: model)
            .task { await runHeadlessIfAsked() }
    }

    /// Launched by a driver (docs/devices.md): measure, write files into Documents, and end with the status.
    private func runHeadlessIfAsked() async {
        let info = ProcessInfo.processInfo
        let documents = URL.documentsDirectory
        HeadlessRun.keepBundlesOutOfBackups(in: documents)
        do {
            guard let options = try RunOptions.headless(arguments: info.arguments, environment: info.environment) else { return }
            UIApplication.shared.isIdleTimerDisabled = true
            let status = await HeadlessRun.perform(
                options, documents: documents, probes: await DeviceProbes.current(),
                emit: { event in
                    guard let line = HeadlessRun.consoleLine(event) else { return }
                    // Unbuffered: stdout is no terminal when a driver listens.
                    FileHandle.standardOutput.write(Data("\(line)\n".utf8))
                }
            )
            exit(status)
        } catch {
            HeadlessRun.fail(error, documents: documents)
            exit(2)
        }
    }
}

/// Measures every bundle in Documents, for the device test.
public enum BenchAll {
    /// What came of one bundle.
    public struct Outcome: Sendable {
        public let bundle: String
        /// nil: it drew its golden pictures.
        public let problem: String?
        /// Of the report.
        public let report: URL
    }

    /// - Parameter words: options of `s2p-bench run`.
    @MainActor
    public static func measure(words: [String]) async throws -> [Outcome] {
        // A device that dims its screen locks, and a locked one suspends the app while the clock runs on.
        UIApplication.shared.isIdleTimerDisabled = true
        defer { UIApplication.shared.isIdleTimerDisabled = false }
        let documents = URL.documentsDirectory
        var outcomes: [Outcome] = []
        for bundle in HeadlessRun.bundles(in: documents) {
            let out = bundle.replacingOccurrences(of: ".s2pmobile", with: ".report.json")
            let options = try RunOptions(arguments: ["run", bundle, "--out", out] + words)
            let status = await HeadlessRun.perform(options, documents: documents, probes: await DeviceProbes.current())
            let error = try? String(contentsOf: documents.appending(path: HeadlessRun.errorName), encoding: .utf8)
            let problem = status == 0 ? nil : error ?? "another picture than the golden one, see \(out)"
            outcomes.append(Outcome(bundle: bundle, problem: problem, report: documents.appending(path: out)))
        }
        return outcomes
    }
}
#endif
