import Foundation

/// A safetensors file: 8 bytes header length (little-endian), a JSON header, the data.
///
/// The header is checked whole before any tensor is read: known dtypes, sizes that match the shapes, and data that
/// fill the file from the first byte to the last without gap or overlap, as the safetensors package demands.
package struct SafetensorsFile: Sendable {
    package struct Entry: Equatable, Sendable {
        package let dtype: String
        package let shape: [Int]
        /// Bytes of the tensor within the data that follow the header.
        let range: Range<Int>
    }

    /// The safetensors package's own limit.
    private static let maximumHeaderBytes = 100_000_000

    package let name: String
    package let entries: [String: Entry]
    private let content: Data
    private let dataStart: Int

    /// - Throws: `notFound` or `badTensors`.
    package init(opening url: URL) throws(S2PError) {
        guard let data = try? Data(contentsOf: url, options: .mappedIfSafe) else { throw .notFound(path: url.path) }
        try self.init(data, name: url.lastPathComponent)
    }

    /// - Throws: `badTensors`.
    package init(_ content: Data, name: String) throws(S2PError) {
        self.name = name
        self.content = content
        do {
            let headerBytes = try Self.headerLength(content)
            dataStart = 8 + headerBytes
            let header = content.dropFirst(8).prefix(headerBytes)
            let dataBytes = content.count - dataStart
            entries = try Self.readHeader(Data(header), dataBytes: dataBytes)
        } catch let problem as HeaderProblem {
            throw .badTensors(file: name, reason: problem.reason)
        } catch {
            throw .badTensors(file: name, reason: "header is not the JSON of a tensor list")
        }
    }

    /// A float32 tensor.
    ///
    /// - Throws: `badTensors` when the tensor is missing or of another dtype.
    package func floats(_ tensor: String) throws(S2PError) -> Tensor {
        let (entry, bytes) = try read(tensor, dtype: "F32")
        return Tensor(shape: entry.shape, data: words(bytes).map(Float.init(bitPattern:)))
    }

    /// An int32 tensor and its shape.
    ///
    /// - Throws: `badTensors` when the tensor is missing or of another dtype.
    package func int32s(_ tensor: String) throws(S2PError) -> (shape: [Int], data: [Int32]) {
        let (entry, bytes) = try read(tensor, dtype: "I32")
        return (entry.shape, words(bytes).map(Int32.init(bitPattern:)))
    }

    private func read(_ tensor: String, dtype: String) throws(S2PError) -> (Entry, Data) {
        guard let entry = entries[tensor] else { throw .badTensors(file: name, reason: "tensor '\(tensor)' is missing") }
        guard entry.dtype == dtype else {
            throw .badTensors(file: name, reason: "tensor '\(tensor)' is \(entry.dtype) instead of \(dtype)")
        }
        let start = content.startIndex + dataStart
        return (entry, content[start + entry.range.lowerBound..<start + entry.range.upperBound])
    }

    private func words(_ bytes: Data) -> [UInt32] {
        bytes.withUnsafeBytes { raw in
            (0..<raw.count / 4).map { UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)) }
        }
    }
}

extension SafetensorsFile {
    private struct HeaderProblem: Error {
        let reason: String
    }

    private struct RawEntry: Decodable {
        let dtype: String
        let shape: [Int]
        let data_offsets: [Int]
    }

    /// All entries, `__metadata__` apart (it must map text to text).
    private struct RawHeader: Decodable {
        var entries: [String: RawEntry] = [:]

        private struct Name: CodingKey {
            let stringValue: String
            var intValue: Int? { nil }
            init(stringValue: String) { self.stringValue = stringValue }
            init?(intValue: Int) { nil }
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: Name.self)
            for key in container.allKeys {
                if key.stringValue == "__metadata__" {
                    _ = try container.decode([String: String].self, forKey: key)
                } else {
                    entries[key.stringValue] = try container.decode(RawEntry.self, forKey: key)
                }
            }
        }
    }

    private static let bitsOfType: [String: Int] = [
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
        "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    ]

    private static func headerLength(_ content: Data) throws -> Int {
        guard content.count >= 8 else { throw HeaderProblem(reason: "shorter than 8 bytes") }
        let length = content.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(maximumHeaderBytes), length <= UInt64(content.count - 8) else {
            throw HeaderProblem(reason: "header of \(length) bytes does not fit")
        }
        return Int(length)
    }

    private static func readHeader(_ header: Data, dataBytes: Int) throws -> [String: Entry] {
        let raw = try JSONDecoder().decode(RawHeader.self, from: header).entries
        var entries: [String: Entry] = [:]
        for (name, value) in raw {
            guard let bits = bitsOfType[value.dtype] else {
                throw HeaderProblem(reason: "tensor '\(name)' has unknown dtype '\(value.dtype)'")
            }
            guard value.data_offsets.count == 2, let begin = value.data_offsets.first, let end = value.data_offsets.last,
                0 <= begin, begin <= end, end <= dataBytes
            else {
                throw HeaderProblem(reason: "tensor '\(name)' lies outside the file")
            }
            guard let size = elementCount(value.shape + [bits / 8]), size == end - begin else {
                throw HeaderProblem(reason: "tensor '\(name)' has \(end - begin) bytes, not those of shape \(value.shape)")
            }
            entries[name] = Entry(dtype: value.dtype, shape: value.shape, range: begin..<end)
        }
        var position = 0
        for range in entries.values.map(\.range).sorted(by: { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) }) {
            guard range.lowerBound == position else { throw HeaderProblem(reason: "tensors overlap or leave a gap") }
            position = range.upperBound
        }
        guard position == dataBytes else { throw HeaderProblem(reason: "\(dataBytes - position) bytes belong to no tensor") }
        return entries
    }
}
