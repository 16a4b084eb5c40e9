import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

/// The files in tests/fixtures that Python, Swift and C++ share.
enum Fixtures {
    static let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static let folder = repository.appendingPathComponent("tests/fixtures")
    static let replay = folder.appendingPathComponent("replay.s2pmobile")
    static let ancestral = folder.appendingPathComponent("ancestral.s2pmobile")

    static let chunked = folder.appendingPathComponent("chunked.s2pmobile")
    /// Two text encoders, a time table for each prompt.
    static let pooled = folder.appendingPathComponent("pooled.s2pmobile")

    /// Starts from pictures.
    static let picture = folder.appendingPathComponent("picture.s2pmobile")

    struct MalformedBundle: Decodable, CustomTestStringConvertible, Sendable {
        let `case`: String
        let kinds: [String]
        let manifest: String?
        let edit: [String]?
        var testDescription: String { `case` }
    }

    struct MalformedFile: Decodable, CustomTestStringConvertible, Sendable {
        let `case`: String
        let kinds: [String]
        let file: String
        var testDescription: String { `case` }
    }

    struct Index: Decodable {
        let bundles: [MalformedBundle]
        /// Whole bundles for targets that no engine here runs.
        let engines: [MalformedBundle]
        let reports: [MalformedFile]
        let tensors: [MalformedFile]
    }

    static let index: Index = {
        let data = try? Data(contentsOf: folder.appendingPathComponent("malformed/index.json"))
        // Without the index the tests over it would be empty and pass: better to stop.
        guard let data, let index = try? JSONDecoder().decode(Index.self, from: data) else { fatalError("no malformed/index.json") }
        return index
    }()

    static func data(_ path: String) throws -> Data {
        try Data(contentsOf: folder.appendingPathComponent(path))
    }

    /// A copy of a bundle in a fresh folder, removed when `body` ends.
    static func withCopy<Result>(of bundle: URL, _ body: (URL) throws -> Result) throws -> Result {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("s2p-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let copy = folder.appendingPathComponent(bundle.lastPathComponent)
        try FileManager.default.copyItem(at: bundle, to: copy)
        return try body(copy)
    }
}

/// The error that `body` throws, which must be a `S2PError`.
func thrownError(_ body: () throws -> Void) -> S2PError? {
    do {
        try body()
        return nil
    } catch {
        return error as? S2PError
    }
}
