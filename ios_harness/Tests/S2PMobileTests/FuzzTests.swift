import AllocationGuard
import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

/// Mutated inputs give a value or a `S2PError`, never a trap, and no number in them is believed: the largest piece of memory that a
/// reader asks for is at most four times the input, and what readers need for anything. Inputs with so much padding that this hardly
/// counts get four times their size alone. The mutations are the same on every run.
@Suite struct FuzzTests {
    private static let rounds = 10_000
    private static let paddedRounds = 100
    /// Windows, buffers of files, and tables of the JSON decoder: measured without any mutation, the largest has 64 KiB.
    private static let slackBytes = 128 << 10
    /// Four times of it hold that, and much else.
    private static let paddingBytes = 256 << 10

    /// Tests share as many threads as there are cores.
    private static func letOthersRun(_ round: Int) async {
        if round % 20 == 0 { await Task.yield() }
    }

    /// What `body` throws. A reader that asks for more than four times the input and `slack` bytes is an issue.
    private func guarded(_ input: Data, slack: Int = slackBytes, _ body: () throws -> Void) -> S2PError? {
        let bound = 4 * input.count + slack
        allocation_guard_begin()
        let error = thrownError(body)
        guard allocation_guard_largest() > bound else { return error }
        // Tables of Swift's runtime grow now and then; a reader that believes a number does so each time.
        allocation_guard_begin()
        _ = thrownError(body)
        let largest = allocation_guard_largest()
        if largest > bound { Issue.record("\(largest) bytes at once for an input of \(input.count)") }
        return error
    }

    /// Reads mutants of every source, and some of them larger than they need be.
    ///
    /// - Parameters:
    ///   - beside: what is read with every input.
    ///   - pad: makes an input larger without making it wrong; nil: another test has such inputs.
    /// - Returns: how many were refused.
    private func fuzz(
        _ sources: [Data], seed: UInt64, beside: Data = Data(), pad: ((Data) -> Data)? = { $0 + Data(repeating: 0x20, count: paddingBytes) },
        read: (Data) throws -> Void
    ) async -> Int {
        var random = SplitMix(state: seed)
        var refused = 0
        for source in sources {
            for (input, slack) in [(source, Self.slackBytes)] + (pad.map { [($0(source), 0)] } ?? []) {
                if let error = guarded(input + beside, slack: slack, { try read(input) }) { Issue.record(error) }
            }
        }
        for round in 0..<Self.rounds {
            await Self.letOthersRun(round)
            let mutant = mutate(sources[round % sources.count], &random)
            guard let error = guarded(mutant + beside, { try read(mutant) }) else { continue }
            refused += 1
            if error.description.contains("\n") { Issue.record("an error of two lines: \(error)") }
        }
        guard let pad else { return refused }
        for round in 0..<Self.paddedRounds {
            await Self.letOthersRun(round)
            let mutant = pad(mutate(sources[round % sources.count], &random))
            _ = guarded(mutant + beside, slack: 0) { try read(mutant) }
        }
        return refused
    }

    @Test func manifests() async throws {
        let sources = try ["replay", "ancestral", "picture"].map { try compact(Fixtures.data("\($0).s2pmobile/manifest.json")) }
        let refused = await fuzz(sources, seed: 42) { mutant in
            let manifest = try decodeContract(BundleManifest.self, from: mutant, name: "fuzz")
            for file in manifest.files.keys { _ = try? path(file, inside: Fixtures.replay) }
            _ = elementCount(manifest.latents.shape)
        }
        // Most mutations hurt; if few do, the mutator is at fault.
        #expect(refused > Self.rounds / 2 && refused < Self.rounds)
    }

    @Test func reports() async throws {
        let refused = await fuzz([try compact(Fixtures.data("report.json"))], seed: 41) { mutant in
            _ = try encodeContract(decodeContract(BenchReport.self, from: mutant, name: "fuzz"))
        }
        #expect(refused > Self.rounds / 2 && refused < Self.rounds)
    }

    /// The fixture's vocabulary, small: what its merges need, and the marks around a text.
    private func tokenizer() throws -> (words: Data, merges: Data, spec: TokenizerSpec) {
        let spec = try ModelBundle(opening: Fixtures.replay).manifest.tokenizer
        let all = try JSONDecoder().decode([String: Int].self, from: Fixtures.data("replay.s2pmobile/tokenizer/vocab.json"))
        let few = all.filter { token, id in
            id >= spec.bosID || token.replacingOccurrences(of: "</w>", with: "").utf8.allSatisfy { (0x61...0x7A).contains($0) }
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return (try encoder.encode(few), try Fixtures.data("replay.s2pmobile/tokenizer/merges.txt"), spec)
    }

    private func encode(_ words: Data, _ merges: Data, _ spec: TokenizerSpec) throws {
        let ids = try ClipTokenizer(vocabData: words, mergesData: merges, spec: spec).encode("a red cat in a blue hat")
        if ids.count != spec.maxLength || ids.contains(where: { $0 < 0 }) { Issue.record("wrong ids \(ids)") }
    }

    @Test func vocabularies() async throws {
        let (words, merges, spec) = try tokenizer()
        let refused = await fuzz([words], seed: 44, beside: merges) { try encode($0, merges, spec) }
        #expect(refused > Self.rounds / 4 && refused < Self.rounds)
    }

    @Test func mergeLists() async throws {
        let (words, merges, spec) = try tokenizer()
        let comment = Data("\n#version: ".utf8) + Data(repeating: 0x2E, count: Self.paddingBytes)
        let refused = await fuzz([merges], seed: 46, beside: words, pad: { $0 + comment }) { try encode(words, $0, spec) }
        #expect(refused > Self.rounds / 4 && refused < Self.rounds)
    }

    /// A small bundle of tiny files (Data/README.md): most mutations hit what describes the files, not the files.
    @Test func archives() async throws {
        let source = try Data(contentsOf: Archives.small)
        try await Archives.inScratch { folder in
            let store = folder.appendingPathComponent("a/store")
            try FileManager.default.createDirectory(at: store, withIntermediateDirectories: true)
            let place = store.appendingPathComponent("bundle")
            let unpack = { (archive: Data) throws in
                defer { try? FileManager.default.removeItem(at: place) }
                let archive = try BundleArchive(ZipArchive(archive, name: "fuzz.zip"))
                try FileManager.default.createDirectory(at: place, withIntermediateDirectories: false)
                _ = try archive.unpack(into: place)
            }
            let refused = await fuzz([source], seed: 45, pad: nil, read: unpack)
            // Some bytes mean nothing: dates and rights of members.
            #expect(refused > Self.rounds * 4 / 5 && refused < Self.rounds)
            #expect(try FileManager.default.contentsOfDirectory(atPath: store.path).isEmpty)
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["a"])
        }
    }

    /// The same behind a member that no manifest lists.
    @Test func archivesWithALargeMember() async throws {
        let small = try ZipArchive(opening: Archives.small)
        var writer = ZipWriter()
        writer.add("padding", Data(repeating: 0x2E, count: Self.paddingBytes))
        for name in small.members.keys.sorted() { writer.add(name, try small.data(of: name, limit: Self.slackBytes)) }
        let source = writer.file()
        let start = Self.paddingBytes
        try await Archives.inScratch { folder in
            let place = folder.appendingPathComponent("bundle")
            var random = SplitMix(state: 47)
            var refused = 0
            for round in 0...Self.paddedRounds {
                await Self.letOthersRun(round)
                let mutant = round == 0 ? source : source[..<start] + mutate(source[start...], &random)
                let error = guarded(mutant, slack: 0) {
                    defer { try? FileManager.default.removeItem(at: place) }
                    let archive = try BundleArchive(ZipArchive(mutant, name: "fuzz.zip"))
                    try FileManager.default.createDirectory(at: place, withIntermediateDirectories: false)
                    _ = try archive.unpack(into: place)
                }
                if round == 0 { #expect(error == nil) }
                if error != nil { refused += 1 }
            }
            #expect(refused > Self.paddedRounds / 2)
        }
    }

    @Test func safetensorsHeaders() async throws {
        let small = try Fixtures.data("noise.safetensors")
        let length = small.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        var random = SplitMix(state: 43)
        var refused = 0
        for round in 0..<Self.rounds + Self.paddedRounds {
            await Self.letOthersRun(round)
            let padded = round >= Self.rounds
            // Blanks may end the header.
            let header = mutate(Data(small[8..<8 + length]), &random) + Data(repeating: 0x20, count: padded ? Self.paddingBytes : 0)
            var count = UInt64(header.count)
            // Now and then the length itself is wrong, too.
            if random.next() % 8 == 0 { count ^= 1 << (random.next() % 64) }
            let lengthBytes = Data((0..<8).map { UInt8(truncatingIfNeeded: count >> (8 * UInt64($0))) })
            let mutant = lengthBytes + header + small[(8 + length)...]
            let error = guarded(mutant, slack: padded ? 0 : Self.slackBytes) {
                let file = try SafetensorsFile(mutant, name: "fuzz")
                for name in file.entries.keys {
                    _ = try? file.floats(name)
                    _ = try? file.int32s(name)
                }
            }
            if error != nil { refused += 1 }
        }
        #expect(refused > Self.rounds / 2 && refused < Self.rounds)
    }

    /// JSON without the space between its tokens, so that more of the mutations hit what is read, and all is read sooner.
    private func compact(_ json: Data) -> Data {
        var (inside, escaped) = (false, false)
        return json.filter { byte in
            defer {
                if byte == 0x22, !escaped { inside.toggle() }
                escaped = byte == 0x5C && !escaped
            }
            return inside || ![0x20, 0x0A].contains(byte)
        }
    }

    private static let tokens: [[UInt8]] = [
        "0", "-1", "1e999", "-0.0", "9223372036854775807", "9223372036854775808", "18446744073709551615", "4611686018427387905",
        "1e18", "0.5", "null", "true", "\"\"", "[]", "{}", "[[0,1]]", "\"..\"", "\"\\u0000\"", "\"\\ud800\"", "\\", "\"", "{", "]", ",", ":",
        "[[[[[[[[", "NaN",
    ].map { Array($0.utf8) }

    /// One to four edits: bits flipped, bytes removed, repeated or replaced, and numbers exchanged for awkward ones.
    private func mutate(_ source: Data, _ random: inout SplitMix) -> Data {
        var bytes = Array(source)
        for _ in 0...Int(random.next() % 4) {
            guard !bytes.isEmpty else { break }
            let place = Int(random.next() % UInt64(bytes.count))
            switch random.next() % 7 {
            case 0: bytes[place] ^= 1 << UInt8(random.next() % 8)
            case 1: bytes[place] = UInt8(truncatingIfNeeded: random.next())
            case 2: bytes.removeSubrange(place..<min(bytes.count, place + 1 + Int(random.next() % 16)))
            case 3: bytes.insert(contentsOf: bytes[place..<min(bytes.count, place + 1 + Int(random.next() % 32))], at: place)
            case 4: bytes.removeSubrange(place...)
            default:
                // A whole value: from a digit, letter or quote up to the next separator.
                let end = bytes[place...].firstIndex { [0x2C, 0x7D, 0x5D, 0x0A].contains($0) } ?? bytes.count
                let start = bytes[..<place].lastIndex { [0x3A, 0x2C, 0x5B].contains($0) }.map { $0 + 1 } ?? place
                bytes.replaceSubrange(start..<end, with: Self.tokens[Int(random.next() % UInt64(Self.tokens.count))])
            }
        }
        return Data(bytes)
    }
}
