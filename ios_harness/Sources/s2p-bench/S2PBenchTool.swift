import Foundation
import S2PBench
import S2PBenchProbes

#if canImport(CoreML)
import S2PBenchCoreML
#endif
#if canImport(CoreAI)
import S2PBenchCoreAI
#endif

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
        } catch let error as BenchError {
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
            let (picture, drawing) = try await session.draw(prompt, seed: seed)
            print("\(picture.width) x \(picture.height) in \(format(drawing.totalMS)) ms: \(options.out ?? "picture.png")")
            return true
        case .run:
            let report = try await session.run { event in
                if case .phase(let phase) = event { note(phase.rawValue) }
                if case .picture(let milliseconds) = event { note("picture in \(format(milliseconds)) ms") }
            }
            describe(report, options.out ?? "report.json")
            return report.validity.fidelityOK
        }
    }

    private static let makeComponents: BenchSession.MakeComponents = { bundle, options in
        #if canImport(CoreAI)
        if #available(iOS 27.0, macOS 27.0, *), bundle.manifest.target == CoreAIBackend.target {
            return try await CoreAIBackend.components(of: bundle, options: options)
        }
        #endif
        #if canImport(CoreML)
        return try await CoreMLBackend.components(of: bundle, options: options)
        #else
        return try Replay.components(of: bundle)
        #endif
    }

    private static func describe(_ report: BenchReport, _ path: String) {
        for name in ["text_encoder", "unet_call", "vae_decoder", "image"] {
            guard let summary = report.summaryMS[name] else { continue }
            print("\(name): p50 \(format(summary.p50)) ms, p90 \(format(summary.p90)) ms, \(summary.count) samples")
        }
        for fidelity in report.fidelity {
            let psnr = fidelity.latentPSNR.map { "\(format($0)) dB" } ?? "identical"
            print("golden run \(fidelity.goldenID): latents \(psnr)")
        }
        print("report: \(path)")
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
