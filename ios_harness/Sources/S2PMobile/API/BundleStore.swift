import Foundation

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

/// Where an app keeps its bundles: downloads them, checks them, and lets them go.
///
/// ```swift
/// let store = try BundleStore()
/// for try await step in store.download(address, sha256: "9f86d0...") {
///     bar.value = step.fraction
///     if let bundle = step.bundle { pipeline = try await Pipeline(bundle: bundle) }
/// }
/// ```
///
/// Bundles are not part of the user's backups: they can be fetched again.
public struct BundleStore: Sendable {
    /// Where a download stands.
    public struct Step: Sendable {
        /// Bytes that arrived, those of earlier tries with them.
        public let received: Int
        /// All of them; nil: the server does not tell.
        public let expected: Int?
        /// The unpacked and checked bundle, in the last step alone.
        public let bundle: URL?

        /// From 0 to 1; nil: the server does not tell.
        public var fraction: Double? { expected.map { Double(received) / Double(max($0, 1)) } }
    }

    /// Where the bundles lie.
    public let folder: URL
    private let configuration: URLSessionConfiguration

    /// - Parameter folder: made if it is not there; nil: `s2p-mobile` in the app's Application Support folder.
    /// - Throws: ``S2PError`` when it cannot be made.
    public init(folder: URL? = nil) throws {
        try self.init(folder: folder, configuration: .default)
    }

    package init(folder: URL?, configuration: URLSessionConfiguration) throws {
        self.configuration = configuration
        do {
            if let folder {
                self.folder = folder
            } else {
                let support = try FileManager.default.url(
                    for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true
                )
                self.folder = support.appendingPathComponent("s2p-mobile", isDirectory: true)
            }
            try FileManager.default.createDirectory(at: self.folder, withIntermediateDirectories: true)
        } catch {
            throw S2PError.cannotWrite(path: folder?.path ?? "Application Support", reason: error.localizedDescription)
        }
        Self.keepOutOfBackups(self.folder)
    }

    /// Bundles that are here, whole, by name.
    public var bundles: [URL] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        return names.filter { $0.hasSuffix(Self.suffix) && !$0.hasPrefix(".") }.sorted().map {
            folder.appendingPathComponent($0, isDirectory: true)
        }
    }

    /// Fetches an archive (`s2p-mobile convert --archive`), checks it, unpacks it and checks every file of the bundle.
    ///
    /// A download that was stopped goes on where it was, when the server knows ranges and tags its files. A bundle that is here already
    /// comes at once. Stop reading, or cancel the task that reads, and the download stops.
    ///
    /// - Parameters:
    ///   - url: of `NAME.s2pmobile.zip`.
    ///   - sha256: of the archive, 64 hexadecimal digits: what the app's author tells, not what the server does.
    ///   - maximumBytes: no larger archive is taken.
    /// - Returns: steps; the stream throws ``S2PError`` or `CancellationError`.
    public func download(_ url: URL, sha256: String, maximumBytes: Int? = nil) -> AsyncThrowingStream<Step, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do {
                    try await fetch(url, sha256.lowercased(), maximumBytes) { continuation.yield($0) }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    /// Unpacks an archive that is on the device, and checks every file of the bundle.
    ///
    /// - Returns: the bundle in this store.
    /// - Throws: ``S2PError``: it is no archive, is damaged, would leave its folder or is a bomb.
    public func install(_ archive: URL) throws -> URL {
        guard let digest = try? SHA256Digest.hex(ofFile: archive) else {
            throw S2PError("not_found", "\(archive.path) does not exist", "give an archive made by s2p-mobile convert")
        }
        return try unpack(archive, to: place(archive.lastPathComponent, digest))
    }

    /// Removes a bundle of this store.
    ///
    /// - Throws: ``S2PError`` when it is none.
    public func remove(_ bundle: URL) throws {
        guard bundles.contains(where: { $0.standardizedFileURL.path == bundle.standardizedFileURL.path }) else {
            throw S2PError.notFound(path: bundle.path)
        }
        try FileManager.default.removeItem(at: bundle)
    }

    private static let suffix = ".s2pmobile"

    /// The name tells what it is, the digits of the archive's checksum which one.
    private func place(_ name: String, _ digest: String) -> URL {
        var stem = name.hasSuffix(".zip") ? String(name.dropLast(4)) : name
        if stem.hasSuffix(Self.suffix) { stem = String(stem.dropLast(Self.suffix.count)) }
        let plain = String(stem.unicodeScalars.map { scalar -> Character in
            let kept = scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil || scalar == "-" || scalar == "_")
            return kept ? Character(scalar) : "-"
        })
        return folder.appendingPathComponent("\(plain)-\(digest.prefix(12))\(Self.suffix)", isDirectory: true)
    }

    private func fetch(_ url: URL, _ digest: String, _ limit: Int?, tell: @escaping @Sendable (Step) -> Void) async throws {
        guard isSHA256(digest) else { throw S2PError.usage("'\(digest)' is no SHA-256", "give its 64 hexadecimal digits") }
        let bundle = place(url.lastPathComponent, digest)
        if FileManager.default.fileExists(atPath: bundle.path) {
            return tell(Step(received: 0, expected: 0, bundle: bundle))
        }
        let file = folder.appendingPathComponent(".part-\(digest)")
        let size = LastStep()
        try await Download(url: url, file: file, limit: limit, configuration: configuration).run { received, expected in
            size.note(received, expected)
            tell(Step(received: received, expected: expected, bundle: nil))
        }
        guard try SHA256Digest.hex(ofFile: file) == digest else {
            removePart(file)
            throw S2PError.download(
                url.lastPathComponent, reason: "its sha256 is not the one that was asked for", remedy: "get address and checksum again"
            )
        }
        _ = try unpack(file, to: bundle)
        removePart(file)
        tell(Step(received: size.received, expected: size.expected ?? size.received, bundle: bundle))
    }

    private func removePart(_ file: URL) {
        for place in [file, file.appendingPathExtension("tag")] { try? FileManager.default.removeItem(at: place) }
    }

    /// The folder appears only when everything in it is right.
    private func unpack(_ archive: URL, to bundle: URL) throws -> URL {
        let files = FileManager.default
        if files.fileExists(atPath: bundle.path) { return bundle }
        let scratch = folder.appendingPathComponent(".unpacking-\(bundle.lastPathComponent)", isDirectory: true)
        // Of a try that was killed.
        try? files.removeItem(at: scratch)
        defer { try? files.removeItem(at: scratch) }
        let opened = try BundleArchive(opening: archive)
        do {
            try files.createDirectory(at: scratch, withIntermediateDirectories: true)
        } catch {
            throw S2PError.cannotWrite(path: scratch.path, reason: error.localizedDescription)
        }
        _ = try opened.unpack(into: scratch)
        do {
            try files.moveItem(at: scratch, to: bundle)
        } catch {
            throw S2PError.cannotWrite(path: bundle.path, reason: error.localizedDescription)
        }
        Self.keepOutOfBackups(bundle)
        return bundle
    }

    /// Marks a file or folder that can be fetched again, on systems with backups of that kind.
    package static func keepOutOfBackups(_ place: URL) {
        #if canImport(Darwin)
        var place = place
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        // A folder that cannot be marked is no reason to refuse its bundle.
        try? place.setResourceValues(values)
        #endif
    }
}

/// What a download told last.
private final class LastStep: @unchecked Sendable {
    private let lock = NSLock()
    private var step: (received: Int, expected: Int?) = (0, nil)

    var received: Int { lock.withLock { step.received } }
    var expected: Int? { lock.withLock { step.expected } }
    func note(_ received: Int, _ expected: Int?) { lock.withLock { step = (received, expected) } }
}
