import Foundation
import Testing

@testable import S2PMobile

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

/// A zip of stored members, written for tests that need a wrong one.
struct ZipWriter {
    struct Entry {
        var name: String
        var data: Data
        /// Unix kind and rights.
        var mode: UInt16 = 0o100644
        var flags: UInt16 = 0
        var method: UInt16 = 0
        /// In the place of the data's own.
        var claimedBytes: Int?
        /// In the place of the next free one.
        var offset: Int?
    }

    var entries: [Entry] = []

    mutating func add(_ name: String, _ data: Data) { entries.append(Entry(name: name, data: data)) }

    func file() -> Data {
        func number(_ value: Int, _ bytes: Int) -> [UInt8] { (0..<bytes).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
        var (file, directory) = (Data(), Data())
        for entry in entries {
            let crc = CRC32()
            entry.data.withUnsafeBytes { crc.add($0) }
            let name = Array(entry.name.utf8), bytes = entry.claimedBytes ?? entry.data.count, offset = entry.offset ?? file.count
            let common = number(Int(entry.flags), 2) + number(Int(entry.method), 2) + number(0, 4) + number(Int(crc.value), 4)
                + number(entry.data.count, 4) + number(bytes, 4) + number(name.count, 2) + number(0, 2)
            if entry.offset == nil { file += number(0x0403_4B50, 4) + number(20, 2) + common + name + entry.data }
            directory += number(0x0201_4B50, 4) + [20, 3] + number(20, 2) + common + number(0, 2) + number(0, 2) + number(0, 2)
            directory += number(Int(entry.mode) << 16, 4) + number(offset, 4) + name
        }
        let end = number(0x0605_4B50, 4) + number(0, 4) + number(entries.count, 2) + number(entries.count, 2) + number(directory.count, 4)
        return file + directory + end + number(file.count, 4) + number(0, 2)
    }
}

/// Archives of fixture bundles.
enum Archives {
    /// Written by Python's zipfile, all members deflated (Data/README.md).
    static let deflated = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Data/replay.s2pmobile.zip")
    /// The same with a few bytes for each file and a packed one.
    static let small = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Data/small.s2pmobile.zip")
    static let plainIndex = Data(#"{"format": "s2p-archive", "version": 1, "packed": {}}"#.utf8)

    /// The files of a bundle, manifest and all.
    static func files(of bundle: URL) throws -> [String: Data] {
        let manifest = try ModelBundle(opening: bundle).manifest
        return try (manifest.files.keys + ["manifest.json"]).reduce(into: [:]) { files, name in
            files[name] = try Data(contentsOf: bundle.appendingPathComponent(name))
        }
    }

    static func stored(of bundle: URL) throws -> ZipWriter {
        var zip = ZipWriter()
        zip.add("archive.json", plainIndex)
        for (name, data) in try files(of: bundle).sorted(by: { $0.key < $1.key }) { zip.add(name, data) }
        return zip
    }

    static func inScratch<Result>(_ body: (URL) async throws -> Result) async throws -> Result {
        let folder = try scratch()
        defer { try? FileManager.default.removeItem(at: folder) }
        return try await body(folder)
    }

    private static func scratch() throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("store-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        return folder
    }

    static func inScratch<Result>(_ body: (URL) throws -> Result) throws -> Result {
        let folder = try scratch()
        defer { try? FileManager.default.removeItem(at: folder) }
        return try body(folder)
    }
}

@Suite struct ArchiveTests {
    private static let letters = "ereteninloteneoode ittreaeeelheoutoestinhtatutiaeohletlaea sosutaarnsorentooutah uaeiusetsoanenea drrolttstethhtosaraituhdeo"
        + "seshtoenarhtsonaoaehhddaidetlthrtehteueeeietttedtaaetttstutl ai anneeaoaottetstdoeteoeeti suohtl sitsleourauloeaeteaeeaatort"
        + "eehertrit dseotaetruortneuoasneadoaettareaottueohauh"

    /// Deflated by Python's zlib at levels 0 and 9: stored bytes, the fixed codes with a match, and codes of their own.
    @Test(arguments: [
        ("AQUA+v9oZWxsbw==", "hello"), ("y0jNyclXyIKTlQA=", "hello jello jelly"),
        (
            "FVDbCQAxCFulqwUaUCgKGvc/78sSYx5lUQyPlzuYeXlcKoLkM+Yo2fIwQSMH0x71QJzOHgEVncVQLhd2BvRpqhOxiji3Kp/UosyUjYJr7DKbvQADZUsPJGh2L/yug6xEE2"
                + "eDOCXxrtn/6A3yDvwggtyr3OWiN7dKkvLTk7acdvXbDoV5uZX01wKUK01jqVznNlO7q1k4OIne2Dd/L+xHrPpsa4x9", letters
        ),
    ])
    func inflatesWhatZlibDeflated(_ packed: String, _ text: String) throws {
        let data = try #require(Data(base64Encoded: packed))
        var out = Data()
        let count = try data.withUnsafeBytes { try Inflate.decode($0, limit: text.utf8.count) { out.append(contentsOf: $0) } }
        #expect(out == Data(text.utf8) && count == out.count)
        // One byte less is too little, and cut off it is damaged.
        #expect(throws: Inflate.Problem.self) {
            try data.withUnsafeBytes { try Inflate.decode($0, limit: text.utf8.count - 1) { _ in } }
        }
        #expect(throws: Inflate.Problem.self) {
            try data.dropLast(2).withUnsafeBytes { try Inflate.decode($0, limit: text.utf8.count) { _ in } }
        }
    }

    @Test func unpacksWhatPythonPacked() throws {
        try Archives.inScratch { folder in
            let bundle = try BundleStore(folder: folder).install(Archives.deflated)
            #expect(bundle.lastPathComponent.hasPrefix("replay-") && bundle.lastPathComponent.hasSuffix(".s2pmobile"))
            for (name, data) in try Archives.files(of: Fixtures.replay) {
                #expect(try Data(contentsOf: bundle.appendingPathComponent(name)) == data, "\(name)")
            }
            #expect(try BundleStore(folder: folder).bundles.map(\.lastPathComponent) == [bundle.lastPathComponent])
        }
    }

    @Test func putsPackedWeightsBack() throws {
        // Two stretches, one of them odd, between bytes that are no weights.
        let values: [Int8] = [-8, 7, 0, -1, 3, 5, -4]
        let first = Array("head".utf8), middle = Array("--".utf8), last = Array("tail".utf8)
        let file = Data(first + values[..<4].map { UInt8(bitPattern: $0) } + middle + values[4...].map { UInt8(bitPattern: $0) } + last)
        func nibble(_ value: Int8) -> UInt8 { UInt8(bitPattern: value) & 15 }
        let nibbles = Data([
            nibble(values[0]) | nibble(values[1]) << 4, nibble(values[2]) | nibble(values[3]) << 4, nibble(values[4]) | nibble(values[5]) << 4,
            nibble(values[6]),
        ])
        try Archives.inScratch { folder in
            var zip = ZipWriter()
            zip.add("archive.json", Data(#"{"format": "s2p-archive", "version": 1, "packed": {"unet.pte": [[4, 4], [10, 3]]}}"#.utf8))
            var files = try Archives.files(of: Fixtures.ancestral)
            let old = try #require(files["unet.pte"])
            let written = try #require(files["manifest.json"])
            let manifest = String(decoding: written, as: UTF8.self)
                .replacingOccurrences(of: SHA256Digest.hex(of: old), with: SHA256Digest.hex(of: file))
                .replacingOccurrences(of: "\"bytes\": \(old.count)\n", with: "\"bytes\": \(file.count)\n")
            files["manifest.json"] = Data(manifest.utf8)
            files["unet.pte"] = nil
            files["unet.pte.rest"] = Data(first + middle + last)
            files["unet.pte.nibbles"] = nibbles
            for (name, data) in files.sorted(by: { $0.key < $1.key }) { zip.add(name, data) }
            let archive = folder.appendingPathComponent("ancestral.s2pmobile.zip")
            try zip.file().write(to: archive)
            let bundle = try BundleStore(folder: folder).install(archive)
            #expect(try Data(contentsOf: bundle.appendingPathComponent("unet.pte")) == file)
            #expect(try FileManager.default.contentsOfDirectory(atPath: bundle.path).sorted() == [
                "golden", "manifest.json", "text_encoder.pte", "tokenizer", "unet.pte", "vae_decoder.pte",
            ])
        }
    }

    /// Each with what its message has to say. Nothing is left behind, and nothing lies outside of the store.
    static let wrong: [(String, @Sendable (inout ZipWriter) -> Void)] = [
        ("points outside its folder", { $0.add("../escaped", Data("x".utf8)) }),
        ("points outside its folder", { $0.add("/escaped", Data("x".utf8)) }),
        ("points outside its folder", { $0.add("golden/../../escaped", Data("x".utf8)) }),
        ("points outside its folder", { $0.add("..\\escaped", Data("x".utf8)) }),
        ("is a link, or no file", { $0.entries.append(.init(name: "link", data: Data("../escaped".utf8), mode: 0o120777)) }),
        ("is a link, or no file", { $0.entries[1].mode = 0o120777 }),
        ("is there twice", { $0.add("archive.json", Archives.plainIndex) }),
        ("is encrypted", { $0.entries[1].flags = 1 }),
        ("packed in another way", { $0.entries[1].method = 12 }),
        ("overlaps another member", { zip in zip.entries.append(.init(name: "again", data: zip.entries[0].data, offset: 0)) }),
        ("has two sizes", { $0.entries[1].claimedBytes = 1 << 30 }),
        ("lacks archive.json", { $0.entries.removeFirst() }),
        ("lacks manifest.json", { $0.entries.removeAll { $0.name == "manifest.json" } }),
        ("lacks golden/first.safetensors", { $0.entries.removeAll { $0.name == "golden/first.safetensors" } }),
        ("was altered", { zip in
            guard let place = zip.entries.firstIndex(where: { $0.name == "tokenizer/merges.txt" }) else { return }
            zip.entries[place].data[0] ^= 1
        }),
    ]

    @Test(arguments: wrong.indices) func refuses(_ index: Int) throws {
        let (words, change) = Self.wrong[index]
        try Archives.inScratch { folder in
            var zip = try Archives.stored(of: Fixtures.replay)
            change(&zip)
            let store = try BundleStore(folder: folder.appendingPathComponent("inner/store"))
            let archive = folder.appendingPathComponent("a.s2pmobile.zip")
            try zip.file().write(to: archive)
            let error = thrownError { _ = try store.install(archive) }
            #expect(error?.description.contains(words) == true, "\(String(describing: error))")
            #expect(try FileManager.default.contentsOfDirectory(atPath: store.folder.path).isEmpty)
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["a.s2pmobile.zip", "inner"])
        }
    }

    /// A manifest that announces a terabyte, and members that give more than it says.
    @Test func refusesBombs() throws {
        try Archives.inScratch { folder in
            let store = try BundleStore(folder: folder)
            let archive = folder.appendingPathComponent("bomb.zip")
            func tell(_ change: (String) -> String) throws -> S2PError? {
                var zip = try Archives.stored(of: Fixtures.replay)
                let place = try #require(zip.entries.firstIndex { $0.name == "manifest.json" })
                zip.entries[place].data = Data(change(String(decoding: zip.entries[place].data, as: UTF8.self)).utf8)
                try zip.file().write(to: archive)
                return thrownError { _ = try store.install(archive) }
            }
            let size = try Data(contentsOf: Fixtures.replay.appendingPathComponent("unet.mlpackage/Data/model.mlmodel")).count
            let written = "\"bytes\": \(size)\n"
            let large = try tell { $0.replacingOccurrences(of: written, with: "\"bytes\": 1000000000000\n") }
            #expect(large?.description.contains("16 times as large") == true, "\(String(describing: large))")
            let overflow = try tell { $0.replacingOccurrences(of: written, with: "\"bytes\": 9223372036854775807\n") }
            #expect(overflow?.description.contains("16 times as large") == true, "\(String(describing: overflow))")
            let small = try tell { $0.replacingOccurrences(of: written, with: "\"bytes\": \(size - 1)\n") }
            #expect(small?.description.contains("larger than its manifest says") == true, "\(String(describing: small))")
        }
    }

    /// A member whose data go on behind the size that the directory has.
    @Test func deflateStopsAtItsLimit() throws {
        // 50,000 zeros in 64 bytes.
        let zeros = try #require(Data(base64Encoded: "7cEBDQAAAMKg909tDwcUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAATwY="))
        func decode(_ limit: Int) throws -> Int {
            var given = 0
            return try zeros.withUnsafeBytes { bytes in
                try Inflate.decode(bytes, limit: limit) { piece in
                    given += piece.count
                    #expect(given <= limit && piece.count <= 1 << 15)
                }
            }
        }
        #expect(try decode(50_000) == 50_000)
        #expect(throws: Inflate.Problem.self) { try decode(49_999) }
    }

    @Test func removesOnlyItsOwnBundles() throws {
        try Archives.inScratch { folder in
            let store = try BundleStore(folder: folder.appendingPathComponent("store"))
            let other = folder.appendingPathComponent("other.s2pmobile")
            try FileManager.default.copyItem(at: Fixtures.replay, to: other)
            #expect(thrownError { try store.remove(other) }?.kind == "not_found")
            let bundle = try store.install(Archives.deflated)
            try store.remove(bundle)
            #expect(store.bundles.isEmpty && FileManager.default.fileExists(atPath: other.path))
        }
    }
}

/// A server in the place of the web: one file, with ranges and a tag; it may cut an answer off.
final class FakeServer: URLProtocol {
    struct State: Sendable {
        var file = Data()
        var tag: String? = "\"v1\""
        /// Bytes after which the connection is lost, once.
        var cut: Int?
        var status: Int?
        var ranges: [String?] = []
    }

    private static let lock = NSLock()
    nonisolated(unsafe) private static var states: [String: State] = [:]

    static func change<R>(_ host: String, _ body: (inout State) -> R) -> R {
        lock.withLock { body(&states[host, default: State()]) }
    }

    static var configuration: URLSessionConfiguration {
        let configuration = URLSessionConfiguration.ephemeral
        configuration.protocolClasses = [FakeServer.self]
        return configuration
    }

    override class func canInit(with request: URLRequest) -> Bool { true }
    override class func canonicalRequest(for request: URLRequest) -> URLRequest { request }
    override func stopLoading() {}

    override func startLoading() {
        guard let url = request.url, let host = url.host else { return }
        let range = request.value(forHTTPHeaderField: "Range")
        let sameVersion = request.value(forHTTPHeaderField: "If-Range")
        let state = Self.change(host) { state in
            state.ranges.append(range)
            defer { state.cut = nil }
            return state
        }
        let asked = range.flatMap { Int($0.dropFirst("bytes=".count).dropLast()) } ?? 0
        let start = sameVersion == state.tag ? asked : 0
        let status = state.status ?? (start == 0 ? 200 : start < state.file.count ? 206 : 416)
        let body = status < 300 ? state.file[start...] : Data()
        var headers = ["Content-Length": "\(body.count)"]
        headers["ETag"] = state.tag
        guard let response = HTTPURLResponse(url: url, statusCode: status, httpVersion: "HTTP/1.1", headerFields: headers) else { return }
        client?.urlProtocol(self, didReceive: response, cacheStoragePolicy: .notAllowed)
        client?.urlProtocol(self, didLoad: Data(state.cut.map { body.prefix($0) } ?? body))
        if state.cut != nil {
            client?.urlProtocol(self, didFailWithError: URLError(.networkConnectionLost))
        } else {
            client?.urlProtocolDidFinishLoading(self)
        }
    }
}

@Suite(.timeLimit(.minutes(1))) struct DownloadTests {
    private let host = UUID().uuidString.lowercased()
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("downloads-\(UUID().uuidString)")
    private let archive: Data
    private let digest: String

    init() throws {
        archive = try Data(contentsOf: Archives.deflated)
        digest = SHA256Digest.hex(of: archive)
        FakeServer.change(host) { [archive] in $0.file = archive }
    }

    private func fetch(_ sha256: String? = nil, maximumBytes: Int? = nil) async throws -> [BundleStore.Step] {
        let store = try BundleStore(folder: folder, configuration: FakeServer.configuration)
        let url = try #require(URL(string: "https://\(host)/replay.s2pmobile.zip"))
        return try await store.download(url, sha256: sha256 ?? digest, maximumBytes: maximumBytes).reduce(into: []) { $0.append($1) }
    }

    private var left: [String] { (try? FileManager.default.contentsOfDirectory(atPath: folder.path))?.sorted() ?? [] }

    @Test func aBundleArrivesCheckedAndOnce() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let steps = try await fetch(digest.uppercased())
        let bundle = try #require(steps.last?.bundle)
        _ = try ModelBundle(opening: bundle)
        #expect(steps.last?.received == archive.count && steps.last?.fraction == 1)
        #expect(steps.dropLast().allSatisfy { $0.bundle == nil && $0.expected == archive.count })
        #expect(left == [bundle.lastPathComponent])
        #expect(try await fetch().last?.bundle == bundle)
        #expect(FakeServer.change(host) { $0.ranges.count } == 1)
    }

    @Test func goesOnWhereTheConnectionWasLost() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        FakeServer.change(host) { $0.cut = 1000 }
        let error = await #expect(throws: S2PError.self) { try await fetch() }
        #expect(error?.description.hasSuffix("try again, it goes on there") == true, "\(String(describing: error))")
        let steps = try await fetch()
        #expect(steps.first?.received == 1000 && steps.last?.bundle != nil)
        #expect(FakeServer.change(host) { $0.ranges } == [nil, "bytes=1000-"])
    }

    /// The file on the server is another one now: what came before is no part of it.
    @Test func beginsAnewWhenTheFileChanged() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        FakeServer.change(host) { $0.cut = 1000 }
        _ = try? await fetch()
        FakeServer.change(host) { $0.tag = "\"v2\"" }
        #expect(try await fetch().last?.bundle != nil)
    }

    /// Without a tag nobody can tell what the first bytes belong to.
    @Test func beginsAnewWithoutATag() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        FakeServer.change(host) { ($0.cut, $0.tag) = (1000, nil) }
        _ = try? await fetch()
        #expect(try await fetch().last?.bundle != nil)
        #expect(FakeServer.change(host) { $0.ranges } == [nil, nil])
    }

    @Test func anotherFileIsRefusedAndForgotten() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let error = await #expect(throws: S2PError.self) { try await fetch(String(repeating: "0", count: 64)) }
        #expect(error?.description.contains("sha256 is not the one") == true && left.isEmpty)
        #expect(await #expect(throws: S2PError.self) { try await fetch("abc") }?.kind == "usage")
    }

    @Test func whatTheServerRefusesIsTold() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        FakeServer.change(host) { $0.status = 404 }
        let error = await #expect(throws: S2PError.self) { try await fetch() }
        #expect(error?.description.contains("the server answers 404") == true && left.isEmpty)
    }

    @Test func aFileAboveTheLimitIsNotTaken() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let error = await #expect(throws: S2PError.self) { try await fetch(maximumBytes: 1000) }
        #expect(error?.description.contains("larger than 1000 bytes") == true)
    }
}
