import Foundation

/// Compiled programs (`.mlmodelc`) in the caches folder, by content, each with a record of what its first load took. The system may
/// empty that folder at any time.
package struct CompiledModelCache: Sendable {
    /// What is not used for so long goes.
    package static let keptSeconds: Double = 30 * 24 * 3600
    private static let suffix = ".mlmodelc"
    private static let recordSuffix = ".json"

    private let folder: URL
    /// What one system has compiled may not suit the next one.
    private let system: String

    /// In the app's caches folder, for this system. What is old goes.
    package static func standard() throws -> CompiledModelCache {
        let caches = try FileManager.default.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let version = ProcessInfo.processInfo.operatingSystemVersion
        let cache = CompiledModelCache(
            folder: caches.appendingPathComponent("s2p-mobile", isDirectory: true),
            system: "\(version.majorVersion).\(version.minorVersion).\(version.patchVersion)"
        )
        cache.prune(now: Date())
        return cache
    }

    package init(folder: URL, system: String) {
        self.folder = folder
        self.system = system
    }

    /// The compiled form of a package: a copy of an earlier launch, or what `compile` gives.
    ///
    /// - Parameters:
    ///   - key: names the content.
    ///   - compile: gives the place of a compiled model, which is moved.
    package func compiledModel(of package: URL, key: String, compile: (URL) async throws -> URL) async throws -> URL {
        if let place = existing(key: key) {
            touch(place)
            return place
        }
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let start = ContinuousClock.now
        let fresh = try await compile(package)
        let taken = (ContinuousClock.now - start).milliseconds
        let place = url(key, Self.suffix)
        try? FileManager.default.removeItem(at: place)
        try FileManager.default.moveItem(at: fresh, to: place)
        // A date of the compiler's own says nothing of when it was used.
        touch(place)
        write(Record(compile: taken), key: key)
        return place
    }

    package func existing(key: String) -> URL? {
        let place = url(key, Self.suffix)
        return FileManager.default.fileExists(atPath: place.path) ? place : nil
    }

    /// Keeps what loading took, unless an earlier load of the same function of the program for the same unit is known.
    ///
    /// - Parameter function: nil: the one that the program has anyway.
    package func note(firstLoad milliseconds: Double, key: String, unit: ComputeUnit, function: String? = nil) {
        let load = Self.load(unit, function)
        guard var record = record(key: key), record.first[load] == nil else { return }
        record.first[load] = milliseconds
        write(record, key: key)
    }

    /// What the first load took; nil: nobody measured it.
    package func firstLoad(key: String, unit: ComputeUnit, function: String? = nil) -> FirstLoad? {
        record(key: key).map { FirstLoad(compile: $0.compile, first: $0.first[Self.load(unit, function)]) }
    }

    /// How a record calls the load of a function.
    private static func load(_ unit: ComputeUnit, _ function: String?) -> String {
        [unit.rawValue, function].compactMap { $0 }.joined(separator: "/")
    }

    /// Removes what other systems compiled, and what was not used for long.
    package func prune(now: Date) {
        let files = FileManager.default
        for name in (try? files.contentsOfDirectory(atPath: folder.path)) ?? [] {
            let place = folder.appendingPathComponent(name)
            let stem = [Self.suffix, Self.recordSuffix].first { name.hasSuffix($0) }.map { String(name.dropLast($0.count)) } ?? name
            let program = folder.appendingPathComponent(stem + Self.suffix)
            let used = (try? files.attributesOfItem(atPath: program.path))?[.modificationDate] as? Date
            let isOld = used.map { now.timeIntervalSince($0) > Self.keptSeconds } ?? true
            if isOld || !stem.hasSuffix("-\(system)") { try? files.removeItem(at: place) }
        }
    }

    private struct Record: Codable {
        var compile: Double
        /// By compute unit, and function where it is not the one that the program has anyway.
        var first: [String: Double] = [:]
    }

    private func record(key: String) -> Record? {
        guard let data = try? Data(contentsOf: url(key, Self.recordSuffix)) else { return nil }
        return try? JSONDecoder().decode(Record.self, from: data)
    }

    private func write(_ record: Record, key: String) {
        // A record that cannot be kept must not stop a drawing.
        try? JSONEncoder().encode(record).write(to: url(key, Self.recordSuffix), options: .atomic)
    }

    private func touch(_ place: URL) {
        try? FileManager.default.setAttributes([.modificationDate: Date()], ofItemAtPath: place.path)
    }

    private func url(_ key: String, _ suffix: String) -> URL {
        folder.appendingPathComponent("\(key)-\(system)\(suffix)", isDirectory: suffix == Self.suffix)
    }
}
