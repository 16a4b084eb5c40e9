import Foundation

/// The app without its screen: one command on a bundle in the Documents folder, files as the only answer.
public enum HeadlessRun {
    public static let errorName = "error.txt"

    /// Performs the command. Output lies in `documents`: what the options name, or `error.txt` with one line.
    /// Files of an earlier run are removed first, so that whoever waits for them does not take old for new.
    ///
    /// - Returns: 0 done, 1 another picture than the golden one, 2 bad input.
    public static func perform(
        _ options: RunOptions, documents: URL, probes: DeviceProbes, makeComponents: BenchSession.MakeComponents,
        emit: @escaping @Sendable (BenchEvent) -> Void = { _ in }
    ) async -> Int32 {
        let defaultName = options.command == .run ? "report.json" : "picture.png"
        for name in [errorName, options.out ?? defaultName] {
            try? FileManager.default.removeItem(at: documents.appendingPathComponent(name))
        }
        do {
            let session = try await BenchSession(
                options: options, bundleFolder: documents.appendingPathComponent(options.bundle, isDirectory: true),
                outputFolder: documents, probes: probes, makeComponents: makeComponents
            )
            if case .draw(let prompt, let seed) = options.command {
                _ = try await session.draw(prompt, seed: seed)
                return 0
            }
            return try await session.run(emit: emit).validity.fidelityOK ? 0 : 1
        } catch {
            fail(error, documents: documents)
            return 2
        }
    }

    /// What a driver reads from the console: `s2p phase NAME` and `s2p picture MILLISECONDS`; nil for all other events.
    public static func consoleLine(_ event: BenchEvent) -> String? {
        switch event {
        case .phase(let phase): "s2p phase \(phase.rawValue)"
        case .picture(let milliseconds): "s2p picture \(milliseconds)"
        default: nil
        }
    }

    /// Writes `error.txt`.
    public static func fail(_ error: any Error, documents: URL) {
        let line = (error as? BenchError)?.description ?? error.localizedDescription
        try? Data("error: \(line)\n".utf8).write(to: documents.appendingPathComponent(errorName), options: .atomic)
    }

    /// Names of the bundles in a folder, sorted.
    public static func bundles(in documents: URL) -> [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: documents.path)) ?? []
        return names.filter { $0.hasSuffix(".s2pmobile") }.sorted()
    }
}
