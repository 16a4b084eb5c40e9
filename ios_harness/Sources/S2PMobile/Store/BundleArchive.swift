import Foundation

/// `archive.json`: which files of an archive are packed, and how (docs/formats.md).
struct ArchiveIndex: Contract {
    static let formatName = "s2p-archive"
    static let formatVersion = 1

    /// A stretch of 4-bit weights: (offset, length) in the restored file, written as `[offset, length]`.
    struct Stretch: Codable, Equatable, Sendable {
        let offset, length: Int

        init(from decoder: any Decoder) throws {
            var container = try decoder.unkeyedContainer()
            offset = try container.decode(Int.self)
            length = try container.decode(Int.self)
            guard container.isAtEnd else {
                throw DecodingError.dataCorruptedError(in: container, debugDescription: "a stretch has two numbers")
            }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.unkeyedContainer()
            try container.encode(offset)
            try container.encode(length)
        }
    }

    let format: String
    let version: Int
    let packed: [String: [Stretch]]

    func validate() throws(ContractViolation) {
        for (name, stretches) in packed.sorted(by: { $0.key < $1.key }) {
            var end = 0
            for stretch in stretches {
                let (next, overflow) = stretch.offset.addingReportingOverflow(stretch.length)
                try require(!overflow && stretch.offset >= end && stretch.length >= 1, "packed.\(name)", "stretches are not ascending")
                end = next
            }
        }
    }
}

/// The download form of a bundle, `NAME.s2pmobile.zip`. `s2p_runtime.archive` is the reference.
struct BundleArchive {
    /// A folder that is more than so many times its archive, and more than `slackBytes`, is a bomb. Weights and golden runs hardly shrink,
    /// packed weights double.
    static let largestGrowth = 16
    static let slackBytes = 64 << 20
    static let indexName = "archive.json"
    private static let largestText = 16 << 20

    private let zip: ZipArchive
    private let manifest: BundleManifest
    private let manifestData: Data
    private let packed: [String: [ArchiveIndex.Stretch]]

    /// Reads what an archive says of itself; nothing is unpacked.
    ///
    /// - Throws: `notFound`, `badArchive`, and what manifests of bundles throw.
    init(opening url: URL) throws {
        try self.init(ZipArchive(opening: url))
    }

    init(_ zip: ZipArchive) throws {
        self.zip = zip
        // Texts shrink to a tenth, but the weights beside them do not: one that is larger than four archives belongs to none.
        let limit = min(Self.largestText, 4 * zip.bytes)
        let index = try decodeContract(
            ArchiveIndex.self, from: zip.data(of: Self.indexName, limit: limit), name: "\(Self.indexName) in \(zip.name)"
        )
        manifestData = try zip.data(of: ModelBundle.manifestName, limit: limit)
        manifest = try decodeContract(BundleManifest.self, from: manifestData, name: "\(ModelBundle.manifestName) in \(zip.name)")
        packed = index.packed
        try requireReasonableSize()
    }

    /// Bytes of the unpacked bundle.
    var bytes: Int { manifest.files.values.reduce(manifestData.count) { $0 + $1.bytes } }

    private func requireReasonableSize() throws(S2PError) {
        var total = manifestData.count
        for entry in manifest.files.values {
            let (sum, overflow) = total.addingReportingOverflow(entry.bytes)
            guard !overflow, sum <= Self.slackBytes + Self.largestGrowth * zip.bytes else {
                throw .badArchive(zip.name, reason: "its bundle would be \(Self.largestGrowth) times as large as itself, and more")
            }
            total = sum
        }
    }

    /// Writes the bundle into an empty folder, checks every file and opens it.
    ///
    /// - Parameter progress: told the bytes written so far.
    /// - Throws: `outside`, `badArchive`, `cannotWrite`, and what bundles throw; `CancellationError`.
    func unpack(into folder: URL, progress: (Int) -> Void = { _ in }) throws -> ModelBundle {
        var done = manifestData.count
        try write(folder.appendingPathComponent(ModelBundle.manifestName)) { try $0.write(contentsOf: manifestData) }
        for (name, entry) in manifest.files.sorted(by: { $0.key < $1.key }) {
            try Task.checkCancellation()
            let place = try path(name, inside: folder)
            try FileManager.default.createDirectory(at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
            if let stretches = packed[name] {
                try restore(name, entry, stretches, to: place)
            } else {
                try extract(name, limit: entry.bytes, to: place)
            }
            done += entry.bytes
            progress(done)
        }
        return try ModelBundle(opening: folder)
    }

    private func extract(_ name: String, limit: Int, to place: URL) throws {
        let member = try zip.member(name)
        try write(place) { file in
            try zip.read(member, limit: limit) { try file.write(contentsOf: Data($0)) }
        }
    }

    /// Puts the stretches back between the parts of the rest. Both lie in files meanwhile, so that no size is held in memory.
    private func restore(_ name: String, _ entry: FileEntry, _ stretches: [ArchiveIndex.Stretch], to place: URL) throws {
        let (restPlace, nibblesPlace) = (place.appendingPathExtension("rest"), place.appendingPathExtension("nibbles"))
        defer {
            for part in [restPlace, nibblesPlace] { try? FileManager.default.removeItem(at: part) }
        }
        try extract(name + ".rest", limit: entry.bytes, to: restPlace)
        try extract(name + ".nibbles", limit: entry.bytes, to: nibblesPlace)
        let (rest, nibbles) = (try Data(contentsOf: restPlace, options: .mappedIfSafe), try Data(contentsOf: nibblesPlace, options: .mappedIfSafe))
        let values = stretches.reduce(0) { $0 + $1.length }
        guard rest.count + values == entry.bytes, nibbles.count == stretches.reduce(0, { $0 + ($1.length + 1) / 2 }) else {
            throw S2PError.badArchive(zip.name, reason: "packed weights of \(name) have the wrong size")
        }
        try write(place) { file in
            var (taken, used, position) = (0, 0, 0)
            for stretch in stretches {
                guard stretch.offset - position <= rest.count - taken else {
                    throw S2PError.badArchive(zip.name, reason: "packed weights of \(name) are in the wrong order")
                }
                try file.write(contentsOf: rest[taken..<taken + stretch.offset - position])
                taken += stretch.offset - position
                try Self.expand(nibbles[used..<used + (stretch.length + 1) / 2], count: stretch.length) { try file.write(contentsOf: $0) }
                used += (stretch.length + 1) / 2
                position = stretch.offset + stretch.length
            }
            try file.write(contentsOf: rest[taken...])
        }
    }

    /// Four bits in two's complement to eight, the low half of a byte first, in pieces.
    static func expand(_ nibbles: Data, count: Int, give: (Data) throws -> Void) throws {
        let pieceBytes = 1 << 15
        var left = count
        for start in stride(from: nibbles.startIndex, to: nibbles.endIndex, by: pieceBytes) {
            let piece = nibbles[start..<min(start + pieceBytes, nibbles.endIndex)]
            var bytes = Data(capacity: 2 * piece.count)
            for byte in piece {
                // Shifting left first, then right with the sign, extends four bits to eight.
                bytes.append(UInt8(bitPattern: Int8(bitPattern: byte << 4) >> 4))
                bytes.append(UInt8(bitPattern: Int8(bitPattern: byte) >> 4))
            }
            try give(bytes.prefix(left))
            left -= min(left, bytes.count)
        }
    }

    private func write(_ place: URL, _ body: (FileHandle) throws -> Void) throws {
        guard FileManager.default.createFile(atPath: place.path, contents: nil), let file = try? FileHandle(forWritingTo: place) else {
            throw S2PError.cannotWrite(path: place.path, reason: "the system refuses it")
        }
        defer { try? file.close() }
        do {
            try body(file)
        } catch let error as S2PError {
            throw error
        } catch is CancellationError {
            throw CancellationError()
        } catch {
            throw S2PError.cannotWrite(path: place.path, reason: error.localizedDescription)
        }
    }
}
