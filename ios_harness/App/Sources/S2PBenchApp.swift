import S2PBench
import S2PBenchCoreML
import S2PBenchProbes
import SwiftUI

@main
struct S2PBenchApp: App {
    @State private var model = BenchModel()

    var body: some Scene {
        WindowGroup {
            BenchScreen(model: model)
                .task { await runHeadlessIfAsked() }
        }
    }

    /// Launched by a driver (docs/devices.md): measure, write files into Documents, and end with the status.
    private func runHeadlessIfAsked() async {
        let info = ProcessInfo.processInfo
        let documents = URL.documentsDirectory
        do {
            guard let options = try RunOptions.headless(arguments: info.arguments, environment: info.environment) else { return }
            UIApplication.shared.isIdleTimerDisabled = true
            let status = await HeadlessRun.perform(
                options, documents: documents, probes: await DeviceProbes.current(),
                makeComponents: { try await CoreMLBackend.components(of: $0, options: $1) },
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
