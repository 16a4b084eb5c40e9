import Foundation

/// An opened bundle: its folder and its manifest, every file checked against its SHA-256.
public struct ModelBundle: Sendable {
    public static let manifestName = "manifest.json"

    public let folder: URL
    public let manifest: BundleManifest
    /// Lower-case hexadecimal SHA-256 of `manifest.json`.
    public let manifestSHA256: String

    /// Opens a bundle after checking its manifest and every checksum.
    ///
    /// - Throws: a `BenchError` that says what is wrong: no bundle, invalid manifest, path outside the folder, file
    ///   missing, truncated or altered.
    public init(opening folder: URL) throws(BenchError) {
        let manifestURL = folder.appendingPathComponent(Self.manifestName, isDirectory: false)
        guard isRegularFile(manifestURL), let data = try? Data(contentsOf: manifestURL) else {
            throw .notFound(path: manifestURL.path)
        }
        let manifest = try decodeContract(BundleManifest.self, from: data, name: manifestURL.path)
        self.folder = folder
        self.manifest = manifest
        manifestSHA256 = SHA256Digest.hex(of: data)
        for component in manifest.components.values {
            _ = try path(component.path)
        }
        for (name, entry) in manifest.files.sorted(by: { $0.key < $1.key }) {
            try check(name, entry)
        }
    }

    /// Absolute place of a file of the bundle.
    ///
    /// - Throws: `outside` when `relative` is empty, absolute, holds `..` or a backslash, or leaves through a link.
    public func path(_ relative: String) throws(BenchError) -> URL {
        try S2PBench.path(relative, inside: folder)
    }

    /// A component and its place.
    public func component(_ name: String) throws(BenchError) -> (spec: ComponentSpec, url: URL) {
        guard let spec = manifest.components[name] else {
            throw .noComponent(folder: folder.lastPathComponent, name: name, available: manifest.components.keys.sorted())
        }
        return (spec, try path(spec.path))
    }

    /// Refuses a bundle whose programs are written for something else than the engine runs.
    ///
    /// - Parameter target: the engine's own.
    /// - Throws: `wrongTarget`.
    public func requireTarget(_ target: String) throws(BenchError) {
        guard manifest.target == target else {
            throw .wrongTarget(bundle: folder.lastPathComponent, target: manifest.target, runs: target)
        }
    }

    /// Refuses names that stand for no component.
    ///
    /// - Throws: `noComponent`.
    public func requireComponents(_ names: some Sequence<String>) throws(BenchError) {
        let known = manifest.componentNames
        for name in names where !known.contains(name) {
            throw .noComponent(folder: folder.lastPathComponent, name: name, available: known)
        }
    }

    /// Refuses a bundle in Apple's layout, whose U-Net takes a timestep in the place of the call's index.
    ///
    /// - Throws: `usage`, `noComponent` or `outside`.
    public func requireStepInput() throws(BenchError) {
        guard try component(manifest.unetPrograms[0]).spec.inputs.allSatisfy({ $0.name != "timestep" }) else {
            throw .usage("\(folder.lastPathComponent) is in Apple's layout; convert without --layout apple to measure it")
        }
    }

    /// Refuses a bundle whose U-Net is one program, of which nothing can be released.
    ///
    /// - Throws: `usage`.
    public func requireChunks() throws(BenchError) {
        guard manifest.isChunked else {
            throw .usage("the U-Net of \(folder.lastPathComponent) is one program; leave --release-chunks out, or convert with --chunks")
        }
    }

    /// Names the content of a component: SHA-256 over its files' paths and checksums. Two bundles that hold the same
    /// program give the same key, so a compiled copy can be shared and never goes stale.
    public func contentKey(of spec: ComponentSpec) -> String {
        let folder = spec.path + "/"
        let lines = manifest.files
            .filter { $0.key == spec.path || $0.key.hasPrefix(folder) }
            .map { "\($0.key.dropFirst(spec.path.utf8.count)) \($0.value.sha256)" }
            .sorted()
        return SHA256Digest.hex(of: Data(lines.joined(separator: "\n").utf8))
    }

    /// The bytes of all files; nil when the sum does not fit.
    public var totalBytes: Int? {
        manifest.files.values.reduce(Optional(0)) { sum, entry in
            guard let (value, overflow) = sum?.addingReportingOverflow(entry.bytes), !overflow else { return nil }
            return value
        }
    }

    private func check(_ name: String, _ entry: FileEntry) throws(BenchError) {
        let url = try path(name)
        guard isRegularFile(url), let attributes = try? FileManager.default.attributesOfItem(atPath: url.path),
            let size = (attributes[.size] as? NSNumber)?.intValue
        else {
            throw .missingFile(folder: folder.lastPathComponent, path: name)
        }
        guard size == entry.bytes else {
            throw .wrongSize(folder: folder.lastPathComponent, path: name, found: size, expected: entry.bytes)
        }
        guard let digest = try? SHA256Digest.hex(ofFile: url) else {
            throw .missingFile(folder: folder.lastPathComponent, path: name)
        }
        guard digest == entry.sha256 else {
            throw .altered(folder: folder.lastPathComponent, path: name)
        }
    }
}

/// The place of `relative` below `folder`, as `s2p_runtime.files.inside` has it.
func path(_ relative: String, inside folder: URL) throws(BenchError) -> URL {
    let parts = relative.split(separator: "/", omittingEmptySubsequences: true)
    let unsafe = relative.unicodeScalars.contains { $0 == "\\" || $0 == "\0" }
    guard !parts.isEmpty, !relative.utf8.starts(with: "/".utf8), !unsafe, !parts.contains("..") else {
        throw .outside(folder: folder.lastPathComponent, path: relative)
    }
    let url = parts.filter { $0 != "." }.reduce(folder) { $0.appendingPathComponent(String($1), isDirectory: false) }
    let root = folder.resolvingSymlinksInPath().standardizedFileURL.pathComponents
    guard url.resolvingSymlinksInPath().standardizedFileURL.pathComponents.starts(with: root) else {
        throw .outside(folder: folder.lastPathComponent, path: relative)
    }
    return url
}

private func isRegularFile(_ url: URL) -> Bool {
    var isDirectory: ObjCBool = false
    return FileManager.default.fileExists(atPath: url.path, isDirectory: &isDirectory) && !isDirectory.boolValue
}
