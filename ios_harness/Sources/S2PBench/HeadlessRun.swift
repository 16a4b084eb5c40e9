import Foundation
import S2PMobile

/// The app without its screen: one command on a bundle in the Documents folder, files as the only answer.
package enum HeadlessRun {
    package static let errorName = "error.txt"

    /// Performs the command. Output lies in `documents`: what the options name, or `error.txt` with one line.
    /// Files of an earlier run are removed first, so that whoever waits for them does not take old for new.
    ///
    /// - Returns: 0 done, 1 another picture than the golden one, 2 bad input.
    package static func perform(
        _ options: RunOptions, documents: URL, probes: DeviceProbes,
        makeComponents: BenchSession.MakeComponents = { try await Engine.components(of: $0, options: $1) },
        emit: @escaping @Sendable (BenchEvent) -> Void = { _ in }
    ) async -> Int32 {
        do {
            try removeEarlier(options, documents)
            let session = try await BenchSession(
                options: options, bundleFolder: documents.appendingPathComponent(options.bundle, isDirectory: true),
                outputFolder: documents, probes: probes, makeComponents: makeComponents
            )
            switch options.command {
            case .draw(let prompt, let seed):
                _ = try await session.draw(prompt, seed: seed)
                return 0
            case .memory: return try await session.measureMemory(emit: emit).validity.fidelityOK ? 0 : 1
            case .run: return try await session.run(emit: emit).validity.fidelityOK ? 0 : 1
            }
        } catch {
            fail(error, documents: documents)
            return 2
        }
    }

    /// Removes what an earlier run left where this one will write. What is no file of a run stays: a bundle named as output is refused.
    private static func removeEarlier(_ options: RunOptions, _ documents: URL) throws(S2PError) {
        try? FileManager.default.removeItem(at: documents.appendingPathComponent(errorName))
        let out = options.out ?? (options.command == .run ? "report.json" : "picture.png")
        for path in [out, options.pictures].compactMap({ $0 }) where isInBundle(path) {
            throw .usage("\(path) is a bundle's own place", "name another file")
        }
        var isDirectory: ObjCBool = false
        let place = documents.appendingPathComponent(out)
        // What `memory` completes was written by `run`.
        guard options.command != .memory, FileManager.default.fileExists(atPath: place.path, isDirectory: &isDirectory) else { return }
        guard !isDirectory.boolValue else { throw .usage("\(out) is a folder", "name a file") }
        try? FileManager.default.removeItem(at: place)
    }

    private static func isInBundle(_ path: String) -> Bool {
        path.split(separator: "/").contains { $0.hasSuffix(".s2pmobile") }
    }

    /// What a driver reads from the console: `s2p phase NAME` and `s2p picture MILLISECONDS`; nil for all other events.
    package static func consoleLine(_ event: BenchEvent) -> String? {
        switch event {
        case .phase(let phase): "s2p phase \(phase.rawValue)"
        case .picture(let milliseconds): "s2p picture \(milliseconds)"
        default: nil
        }
    }

    /// Writes `error.txt`.
    package static func fail(_ error: any Error, documents: URL) {
        let line = (error as? S2PError)?.description ?? error.localizedDescription
        try? Data("error: \(line)\n".utf8).write(to: documents.appendingPathComponent(errorName), options: .atomic)
    }

    /// Names of the bundles in a folder, sorted.
    package static func bundles(in documents: URL) -> [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: documents.path)) ?? []
        return names.filter { $0.hasSuffix(".s2pmobile") }.sorted()
    }

    /// Bundles in Documents come from a desk, and would fill their owner's backups.
    package static func keepBundlesOutOfBackups(in documents: URL) {
        for name in bundles(in: documents) { BundleStore.keepOutOfBackups(documents.appendingPathComponent(name)) }
    }
}
