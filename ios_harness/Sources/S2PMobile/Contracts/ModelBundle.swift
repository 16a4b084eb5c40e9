import Foundation

/// An opened bundle: its folder and its manifest, every file checked against its SHA-256.
package struct ModelBundle: Sendable {
    package static let manifestName = "manifest.json"

    package let folder: URL
    package let manifest: BundleManifest
    /// Lower-case hexadecimal SHA-256 of `manifest.json`.
    package let manifestSHA256: String

    /// Opens a bundle after checking its manifest and every checksum.
    ///
    /// - Throws: a `S2PError` that says what is wrong: no bundle, invalid manifest, path outside the folder, file
    ///   missing, truncated or altered.
    package init(opening folder: URL) throws(S2PError) {
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
            for file in (component.chips ?? [:]).values { _ = try path(file) }
        }
        for (name, entry) in manifest.files.sorted(by: { $0.key < $1.key }) {
            try check(name, entry)
        }
    }

    /// Absolute place of a file of the bundle.
    ///
    /// - Throws: `outside` when `relative` is empty, absolute, holds `..` or a backslash, or leaves through a link.
    package func path(_ relative: String) throws(S2PError) -> URL {
        try S2PMobile.path(relative, inside: folder)
    }

    /// A component and its place.
    package func component(_ name: String) throws(S2PError) -> (spec: ComponentSpec, url: URL) {
        guard let spec = manifest.components[name] else {
            throw .noComponent(folder: folder.lastPathComponent, name: name, available: manifest.components.keys.sorted())
        }
        return (spec, try path(spec.path))
    }

    /// Refuses a bundle whose programs are written for something else than the engine runs.
    ///
    /// - Parameter target: the engine's own.
    /// - Throws: `wrongTarget`.
    package func requireTarget(_ target: String) throws(S2PError) {
        guard manifest.target == target else {
            throw .wrongTarget(bundle: folder.lastPathComponent, target: manifest.target, runs: target)
        }
    }

    /// Refuses names that stand for no component.
    ///
    /// - Throws: `noComponent`.
    package func requireComponents(_ names: some Sequence<String>) throws(S2PError) {
        let known = manifest.componentNames
        for name in names where !known.contains(name) {
            throw .noComponent(folder: folder.lastPathComponent, name: name, available: known)
        }
    }

    /// Refuses a bundle in Apple's layout, whose U-Net takes a timestep in the place of the call's index.
    ///
    /// - Throws: `usage`, `noComponent` or `outside`.
    package func requireStepInput() throws(S2PError) {
        guard try component(manifest.unetPrograms[0]).spec.inputs.allSatisfy({ $0.name != "timestep" }) else {
            throw .usage("\(folder.lastPathComponent) is in Apple's layout, whose U-Net takes timesteps", "convert with --layout s2p to measure it")
        }
    }

    /// Refuses a bundle whose U-Net is one program, of which nothing can be released.
    ///
    /// - Throws: `usage`.
    package func requireChunks() throws(S2PError) {
        guard manifest.isChunked else {
            throw .usage("the U-Net of \(folder.lastPathComponent) is one program", "leave --release-chunks out, or convert with --chunks")
        }
    }

    /// Names the content of a component: SHA-256 over its files' paths and checksums. Two bundles that hold the same
    /// program give the same key, so a compiled copy can be shared and never goes stale.
    package func contentKey(of spec: ComponentSpec) -> String {
        let folder = spec.path + "/"
        let lines = manifest.files
            .filter { $0.key == spec.path || $0.key.hasPrefix(folder) }
            .map { "\($0.key.dropFirst(spec.path.utf8.count)) \($0.value.sha256)" }
            .sorted()
        return SHA256Digest.hex(of: Data(lines.joined(separator: "\n").utf8))
    }

    /// The bytes of a component's files; nil when the sum does not fit.
    package func bytes(of spec: ComponentSpec) -> Int? {
        let folder = spec.path + "/"
        return manifest.files.filter { $0.key == spec.path || $0.key.hasPrefix(folder) }.values.reduce(Optional(0)) { sum, entry in
            guard let (value, overflow) = sum?.addingReportingOverflow(entry.bytes), !overflow else { return nil }
            return value
        }
    }

    private func check(_ name: String, _ entry: FileEntry) throws(S2PError) {
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
package func path(_ relative: String, inside folder: URL) throws(S2PError) -> URL {
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
