import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

/// Mutated inputs give a value or a `S2PError`, never a trap. The mutations are the same on every run.
@Suite struct FuzzTests {
    @Test func manifests() throws {
        let sources = try ["replay.s2pmobile/manifest.json", "ancestral.s2pmobile/manifest.json", "report.json"].map(Fixtures.data)
        var random = SplitMix(state: 42)
        var (refused, torn) = (0, 0)
        for round in 0..<6000 {
            let mutant = mutate(sources[round % 3], &random)
            let error = thrownError {
                if round % 3 == 2 {
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
        #expect(refused > 3000)
    }

    @Test func safetensorsHeaders() throws {
        let small = try Fixtures.data("noise.safetensors")
        let length = small.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        var random = SplitMix(state: 43)
        var refused = 0
        for _ in 0..<6000 {
            let header = mutate(Data(small[8..<8 + length]), &random)
            var count = UInt64(header.count)
            // Now and then the length itself is wrong, too.
            if random.next() % 8 == 0 { count ^= 1 << (random.next() % 64) }
            let lengthBytes = Data((0..<8).map { UInt8(truncatingIfNeeded: count >> (8 * UInt64($0))) })
            let error = thrownError {
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
