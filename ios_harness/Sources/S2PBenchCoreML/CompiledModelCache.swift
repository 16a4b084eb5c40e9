#if canImport(CoreML)
import CoreML
import Foundation
import S2PBench

/// Compiled programs (`.mlmodelc`) in the caches folder, by content. The system may empty that folder at any time.
struct CompiledModelCache: Sendable {
    private let folder: URL

    init() throws {
        let caches = try FileManager.default.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        folder = caches.appendingPathComponent("s2p-bench", isDirectory: true)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    /// The compiled form of a package.
    ///
    /// - Parameter anew: compile even if there is a copy.
    func compiledModel(of package: URL, key: String, anew: Bool) async throws -> URL {
        let place = url(key)
        if anew {
            try? FileManager.default.removeItem(at: place)
        } else if let place = existing(key: key) {
            return place
        }
        let fresh = try await MLModel.compileModel(at: package)
        try? FileManager.default.removeItem(at: place)
        try FileManager.default.moveItem(at: fresh, to: place)
        return place
    }

    func existing(key: String) -> URL? {
        let place = url(key)
        return FileManager.default.fileExists(atPath: place.path) ? place : nil
    }

    private func url(_ key: String) -> URL {
        // A new system compiles anew: what it compiled before may not suit it.
        let version = ProcessInfo.processInfo.operatingSystemVersion
        let system = "\(version.majorVersion).\(version.minorVersion).\(version.patchVersion)"
        return folder.appendingPathComponent("\(key)-\(system).mlmodelc", isDirectory: true)
    }
}
#endif
