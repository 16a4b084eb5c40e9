import Foundation
import S2PBench
import S2PBenchProbes
import S2PMobile

/// `s2p-bench`: exit status 0 done, 1 another picture than the golden one, 2 bad input or usage.
@main
struct S2PBenchTool {
    static func main() async {
        let arguments = Array(CommandLine.arguments.dropFirst())
        if arguments.isEmpty || arguments.contains("--help") || arguments.contains("-h") {
            print(RunOptions.usage)
            exit(arguments.isEmpty ? 2 : 0)
        }
        do {
            exit(try await perform(RunOptions(arguments: arguments)) ? 0 : 1)
        } catch let error as S2PError {
            fail("\(error)")
        } catch {
            fail("\(error.localizedDescription)")
        }
    }

    /// Whether the check held.
    private static func perform(_ options: RunOptions) async throws -> Bool {
        let here = URL(fileURLWithPath: FileManager.default.currentDirectoryPath, isDirectory: true)
        let session = try await BenchSession(
            options: options, bundleFolder: URL(fileURLWithPath: options.bundle, isDirectory: true), outputFolder: here,
            probes: await DeviceProbes.current(), makeComponents: makeComponents
        )
        switch options.command {
        case .draw(let prompt, let seed):
            let (picture, milliseconds) = try await session.draw(prompt, seed: seed)
            print("\(picture.width) x \(picture.height) in \(format(milliseconds)) ms: \(options.out ?? "picture.png")")
            return true
        case .memory:
            let memory = try await session.measureMemory().memory
            print("peak memory: \(memory.peakBytes.map { "\(format(Double($0) / 1e6)) MB" } ?? "not told")")
            return true
        case .run:
            var report = try await session.run { event in
                if case .phase(let phase) = event { note(phase.rawValue) }
                if case .picture(let milliseconds) = event { note("picture in \(format(milliseconds)) ms") }
            }
            report = try measureMemoryApart(report, options)
            describe(report, options, isReplay: session.components.isReplay)
            return report.validity.fidelityOK
        }
    }

    /// In a process of its own, with the words of this one: here programs were compiled and pictures measured.
    private static func measureMemoryApart(_ report: BenchReport, _ options: RunOptions) throws -> BenchReport {
        #if os(Linux) || os(macOS)
        let child = Process()
        child.executableURL = Bundle.main.executableURL
        var words = Array(CommandLine.arguments.dropFirst())
        if let command = words.firstIndex(of: "run") { words[command] = "memory" }
        child.arguments = words
        child.standardOutput = FileHandle.nullDevice
        try child.run()
        child.waitUntilExit()
        let url = URL(fileURLWithPath: options.out ?? "report.json")
        guard child.terminationStatus == 0, let data = try? Data(contentsOf: url) else { return report }
        return try decodeContract(BenchReport.self, from: data, name: url.lastPathComponent)
        #else
        return report
        #endif
    }

    /// Where no engine runs bundles, golden runs are replayed without being asked.
    private static let makeComponents: BenchSession.MakeComponents = { bundle, options in
        #if os(Linux)
        try Replay.components(of: bundle)
        #else
        try await Engine.components(of: bundle, options: options)
        #endif
    }

    private static func describe(_ report: BenchReport, _ options: RunOptions, isReplay: Bool) {
        if isReplay { print("replayed: no program ran, the times are those of the loop around them") }
        for name in ["text_encoder", "unet_call", "vae_decoder", "image"] {
            guard let summary = report.summaryMS[name] else { continue }
            print("\(name): p50 \(format(summary.p50)) ms, p90 \(format(summary.p90)) ms, \(summary.count) samples")
        }
        for fidelity in report.fidelity {
            let psnr = fidelity.latentPSNR.map { "\(format($0)) dB" } ?? "identical"
            print("golden run \(fidelity.goldenID): latents \(psnr)")
        }
        print("report: \(options.out ?? "report.json")")
    }

    private static func format(_ value: Double) -> String {
        String(format: "%.2f", value)
    }

    private static func note(_ text: String) {
        FileHandle.standardError.write(Data("\(text)\n".utf8))
    }

    private static func fail(_ message: String) -> Never {
        note("error: \(message)")
        exit(2)
    }
}
