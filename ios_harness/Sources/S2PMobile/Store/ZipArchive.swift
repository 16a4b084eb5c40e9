import Foundation

/// A zip file: stored and deflated members, no encryption, under 4 GiB. Its directory is checked whole before any member is read.
///
/// The format is PKWARE's APPNOTE 6.3. Refused are names that leave the folder, links, members that are named twice and members whose
/// bytes overlap: one stretch of data that counts for many is how a small file becomes a huge folder.
struct ZipArchive: Sendable {
    struct Member: Equatable, Sendable {
        let name: String
        let isDeflated: Bool
        let crc: UInt32
        let packedBytes, bytes: Int
        /// Of its local header.
        let offset: Int
    }

    let name: String
    let members: [String: Member]
    private let content: Data

    /// Bytes of the file.
    var bytes: Int { content.count }

    /// - Throws: `notFound` or `badArchive`.
    init(opening url: URL) throws(S2PError) {
        guard let data = try? Data(contentsOf: url, options: .mappedIfSafe) else {
            throw S2PError("not_found", "\(url.path) does not exist", "give an archive made by s2p-mobile convert")
        }
        try self.init(data, name: url.lastPathComponent)
    }

    /// - Throws: `badArchive`.
    init(_ content: Data, name: String) throws(S2PError) {
        self.name = name
        // Indices from 0, whatever they were cut out of.
        self.content = content.startIndex == 0 ? content : Data(content)
        do {
            members = try Self.directory(self.content)
        } catch let problem as Problem {
            throw .badArchive(name, reason: problem.reason)
        } catch {
            throw .badArchive(name, reason: "\(error)")
        }
    }

    /// A member's bytes, in pieces and in order.
    ///
    /// - Parameters:
    ///   - limit: bytes that may come out; more is a bomb.
    /// - Throws: `badArchive`, and what `give` throws.
    func read(_ member: Member, limit: Int, give: @escaping (UnsafeRawBufferPointer) throws -> Void) throws {
        guard member.bytes <= limit else { throw S2PError.badArchive(name, reason: "\(member.name) is larger than its manifest says") }
        let range = try dataRange(of: member)
        let crc = CRC32()
        let count: Int
        do {
            count = try content.withUnsafeBytes { bytes in
                let packed = UnsafeRawBufferPointer(rebasing: bytes[range])
                guard member.isDeflated else {
                    crc.add(packed)
                    try give(packed)
                    return packed.count
                }
                return try Inflate.decode(packed, limit: member.bytes) { piece in
                    crc.add(piece)
                    try give(piece)
                }
            }
        } catch is Inflate.Problem {
            throw S2PError.badArchive(name, reason: "\(member.name) is damaged")
        }
        guard count == member.bytes, crc.value == member.crc else {
            throw S2PError.badArchive(name, reason: "\(member.name) is damaged")
        }
    }

    /// A small member as a whole.
    ///
    /// - Throws: `badArchive` when it is missing, damaged or larger than `limit`.
    func data(of memberName: String, limit: Int) throws -> Data {
        let found = try member(memberName)
        guard found.bytes <= limit else { throw S2PError.badArchive(name, reason: "\(memberName) is too large") }
        var data = Data(capacity: found.bytes)
        try withUnsafeMutablePointer(to: &data) { place in
            try read(found, limit: limit) { place.pointee.append(contentsOf: $0) }
        }
        return data
    }

    /// - Throws: `badArchive` when there is none of this name.
    func member(_ memberName: String) throws(S2PError) -> Member {
        guard let member = members[memberName] else { throw .badArchive(name, reason: "it lacks \(memberName)") }
        return member
    }

    private func dataRange(of member: Member) throws(S2PError) -> Range<Int> {
        // The directory was checked: the local header is there. Its name and extra field may be as long as it says.
        let start = member.offset + 30 + content.number(at: member.offset + 26, bytes: 2) + content.number(at: member.offset + 28, bytes: 2)
        let (end, overflow) = start.addingReportingOverflow(member.packedBytes)
        guard !overflow, end <= content.count else { throw .badArchive(name, reason: "\(member.name) lies outside the file") }
        return start..<end
    }
}

extension ZipArchive {
    private struct Problem: Error {
        let reason: String
    }

    private static let endBytes = 22
    private static let entryBytes = 46
    private static let localBytes = 30
    private static let longestComment = 0xFFFF

    private static func directory(_ content: Data) throws -> [String: Member] {
        let (start, count) = try place(content)
        var members: [String: Member] = [:]
        var position = start
        for _ in 0..<count {
            guard position + entryBytes <= content.count, content.number(at: position, bytes: 4) == 0x0201_4B50 else {
                throw Problem(reason: "its directory is damaged")
            }
            let lengths = [28, 30, 32].map { content.number(at: position + $0, bytes: 2) }
            guard position + entryBytes + lengths.reduce(0, +) <= content.count else { throw Problem(reason: "its directory is damaged") }
            let rawName = content[position + entryBytes..<position + entryBytes + lengths[0]]
            let member = try member(content, at: position, rawName)
            if let member {
                guard members.updateValue(member, forKey: member.name) == nil else {
                    throw Problem(reason: "\(member.name) is there twice")
                }
            }
            position += entryBytes + lengths.reduce(0, +)
        }
        try requireApart(members.values, in: content, before: start)
        return members
    }

    /// Where the directory begins, and how many entries it has.
    private static func place(_ content: Data) throws -> (start: Int, count: Int) {
        guard content.count >= endBytes else { throw Problem(reason: "it is shorter than any zip") }
        let earliest = max(0, content.count - endBytes - longestComment)
        var end = content.count - endBytes
        while content.number(at: end, bytes: 4) != 0x0605_4B50 || content.number(at: end + 20, bytes: 2) != content.count - end - endBytes {
            end -= 1
            guard end >= earliest else { throw Problem(reason: "it is no zip, or cut off") }
        }
        let (count, size, start) = (
            content.number(at: end + 10, bytes: 2), content.number(at: end + 12, bytes: 4), content.number(at: end + 16, bytes: 4)
        )
        guard count < 0xFFFF, size < 0xFFFF_FFFF, start < 0xFFFF_FFFF else { throw Problem(reason: "it is larger than 4 GiB") }
        guard start + size <= end, count * entryBytes <= size else { throw Problem(reason: "its directory lies outside the file") }
        return (start, count)
    }

    /// nil: a folder, which a file's own path says as well.
    private static func member(_ content: Data, at position: Int, _ rawName: Data) throws -> Member? {
        guard let name = String(data: rawName, encoding: .utf8) else { throw Problem(reason: "a name is not UTF-8") }
        guard isInside(name) else { throw Problem(reason: "'\(name)' points outside its folder") }
        let system = content.number(at: position + 5, bytes: 1)
        let mode = content.number(at: position + 40, bytes: 2)
        // 3: Unix, whose kinds of files stand in the upper half of the attributes. 0 is one that says nothing.
        let kind = mode & 0xF000
        guard system != 3 || [0, 0x8000, 0x4000].contains(kind) else { throw Problem(reason: "\(name) is a link, or no file") }
        if name.hasSuffix("/") { return nil }
        let flags = content.number(at: position + 8, bytes: 2)
        guard flags & 0x2041 == 0 else { throw Problem(reason: "\(name) is encrypted") }
        let method = content.number(at: position + 10, bytes: 2)
        guard [0, 8].contains(method) else { throw Problem(reason: "\(name) is packed in another way than deflate") }
        let (packed, bytes, offset) = (
            content.number(at: position + 20, bytes: 4), content.number(at: position + 24, bytes: 4),
            content.number(at: position + 42, bytes: 4)
        )
        guard ![packed, bytes, offset].contains(0xFFFF_FFFF) else { throw Problem(reason: "\(name) is larger than 4 GiB") }
        guard method == 8 || packed == bytes else { throw Problem(reason: "\(name) has two sizes") }
        guard offset + localBytes <= content.count, content.number(at: offset, bytes: 4) == 0x0403_4B50 else {
            throw Problem(reason: "\(name) lies outside the file")
        }
        return Member(
            name: name, isDeflated: method == 8, crc: UInt32(content.number(at: position + 16, bytes: 4)), packedBytes: packed, bytes: bytes,
            offset: offset
        )
    }

    /// Each byte belongs to one member at most, and none to the directory as well.
    private static func requireApart(_ members: some Sequence<Member>, in content: Data, before directory: Int) throws {
        var free = 0
        for member in members.sorted(by: { $0.offset < $1.offset }) {
            guard member.offset >= free else { throw Problem(reason: "\(member.name) overlaps another member") }
            let header = localBytes + content.number(at: member.offset + 26, bytes: 2) + content.number(at: member.offset + 28, bytes: 2)
            free = member.offset + header + member.packedBytes
            guard free <= directory else { throw Problem(reason: "\(member.name) lies outside the file") }
        }
    }

    /// Whether a name stays below the folder that it is unpacked into.
    static func isInside(_ name: String) -> Bool {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        let bad = name.unicodeScalars.contains { $0 == "\\" || $0.value < 0x20 }
        let inner = name.hasSuffix("/") ? parts.dropLast() : parts[...]
        return !name.isEmpty && !bad && !inner.isEmpty && inner.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." }
    }
}

extension Data {
    /// A little-endian number of at most four bytes.
    fileprivate func number(at offset: Int, bytes: Int) -> Int {
        (0..<bytes).reduce(0) { $0 | Int(self[offset + $1]) << (8 * $1) }
    }
}

/// CRC-32 of zip and PNG (ISO 3309).
final class CRC32 {
    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value >> 1 ^ (value & 1 == 1 ? 0xEDB8_8320 : 0) }
    }
    private var state = ~UInt32(0)

    var value: UInt32 { ~state }

    func add(_ bytes: UnsafeRawBufferPointer) {
        Self.table.withUnsafeBufferPointer { table in
            var crc = state
            for byte in bytes { crc = crc >> 8 ^ table[Int(UInt8(truncatingIfNeeded: crc) ^ byte)] }
            state = crc
        }
    }
}
