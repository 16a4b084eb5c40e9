import AllocationGuard
import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

/// Mutated inputs give a value or a `S2PError`, never a trap, and no number in them is believed: the largest piece of memory that a
/// reader asks for is at most four times the input, and what readers need for anything. The mutations are the same on every run.
@Suite struct FuzzTests {
    /// Windows, buffers of files, and tables of the JSON decoder: measured without any mutation, the largest has 64 KiB.
    private static let slackBytes = 128 << 10

    /// Tests share as many threads as there are cores.
    private static func letOthersRun(_ round: Int) async {
        if round % 20 == 0 { await Task.yield() }
    }

    /// What `body` throws. A reader that asks for too much is an issue.
    private func guarded(_ input: Data, _ body: () throws -> Void) -> S2PError? {
        allocation_guard_begin()
        let error = thrownError(body)
        let largest = allocation_guard_largest()
        if largest > 4 * input.count + Self.slackBytes { Issue.record("\(largest) bytes at once for an input of \(input.count)") }
        return error
    }

    @Test func manifests() async throws {
        let bundles = ["replay", "ancestral", "picture"].map { "\($0).s2pmobile/manifest.json" }
        let sources = try (bundles + ["report.json"]).map(Fixtures.data)
        var random = SplitMix(state: 42)
        var (refused, torn) = (0, 0)
        for round in 0..<10_000 {
            await Self.letOthersRun(round)
            let mutant = mutate(sources[round % 4], &random)
            let error = guarded(mutant) {
                if round % 4 == 3 {
                    _ = try encodeContract(decodeContract(BenchReport.self, from: mutant, name: "fuzz"))
                } else {
                    let manifest = try decodeContract(BundleManifest.self, from: mutant, name: "fuzz")
                    for file in manifest.files.keys { _ = try? path(file, inside: Fixtures.replay) }
                    _ = elementCount(manifest.latents.shape)
                }
            }
            if let error {
                refused += 1
                if error.description.contains("\n") { torn += 1 }
            }
        }
        #expect(torn == 0)
        // Most mutations hurt; if few do, the mutator is at fault.
        #expect(refused > 5000)
    }

    @Test func vocabularies() async throws {
        let vocab = try Fixtures.data("replay.s2pmobile/tokenizer/vocab.json"), merges = try Fixtures.data("replay.s2pmobile/tokenizer/merges.txt")
        let spec = try ModelBundle(opening: Fixtures.replay).manifest.tokenizer
        var random = SplitMix(state: 44)
        var (refused, wrong) = (0, 0)
        for round in 0..<10_000 {
            await Self.letOthersRun(round)
            let (words, joins) = round % 2 == 0 ? (mutate(vocab, &random), merges) : (vocab, mutate(merges, &random))
            let error = guarded(words + joins) {
                let tokenizer = try ClipTokenizer(vocabData: words, mergesData: joins, spec: spec)
                let ids = tokenizer.encode("a red cat in a blue hat")
                if ids.count != spec.maxLength || ids.contains(where: { $0 < 0 }) { wrong += 1 }
            }
            if error != nil { refused += 1 }
        }
        #expect(wrong == 0 && refused > 3000)
    }

    /// A small bundle of tiny files (Data/README.md): most mutations hit what describes the files, not the files.
    @Test func archives() async throws {
        let source = try Data(contentsOf: Archives.small)
        try await Archives.inScratch { folder in
            let store = folder.appendingPathComponent("a/store")
            try FileManager.default.createDirectory(at: store, withIntermediateDirectories: true)
            var random = SplitMix(state: 45)
            var (refused, unpacked) = (0, 0)
            for round in 0..<10_000 {
                await Self.letOthersRun(round)
                let mutant = mutate(source, &random)
                let place = store.appendingPathComponent("bundle")
                let error = guarded(mutant) {
                    let archive = try BundleArchive(ZipArchive(mutant, name: "fuzz.zip"))
                    try FileManager.default.createDirectory(at: place, withIntermediateDirectories: false)
                    _ = try archive.unpack(into: place)
                }
                error == nil ? (unpacked += 1) : (refused += 1)
                try? FileManager.default.removeItem(at: place)
            }
            // Some bytes mean nothing: dates and rights of members.
            #expect(refused > 8000 && unpacked > 0)
            #expect(try FileManager.default.contentsOfDirectory(atPath: store.path).isEmpty)
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["a"])
        }
    }

    @Test func safetensorsHeaders() async throws {
        let small = try Fixtures.data("noise.safetensors")
        let length = small.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        var random = SplitMix(state: 43)
        var refused = 0
        for round in 0..<6000 {
            await Self.letOthersRun(round)
            let header = mutate(Data(small[8..<8 + length]), &random)
            var count = UInt64(header.count)
            // Now and then the length itself is wrong, too.
            if random.next() % 8 == 0 { count ^= 1 << (random.next() % 64) }
            let lengthBytes = Data((0..<8).map { UInt8(truncatingIfNeeded: count >> (8 * UInt64($0))) })
            let error = guarded(small) {
                let file = try SafetensorsFile(lengthBytes + header + small[(8 + length)...], name: "fuzz")
                for name in file.entries.keys {
                    _ = try? file.floats(name)
                    _ = try? file.int32s(name)
                }
            }
            if error != nil { refused += 1 }
        }
        #expect(refused > 3000)
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
