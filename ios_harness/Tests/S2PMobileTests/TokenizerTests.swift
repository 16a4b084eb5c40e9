import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

@Suite struct TokenizerTests {
    private struct Case: Decodable {
        let text: String
        let ids: [Int32]
    }

    static let demo = Fixtures.repository.appendingPathComponent("sdk/s2p_mobile/demo/model/tokenizer")
    static let spec = TokenizerSpec(
        kind: .clip, vocab: "vocab.json", merges: "merges.txt", maxLength: 16, bosID: 1024, eosID: 1025, unkID: 1025, padID: 1025,
        addedTokens: [special("<|startoftext|>", 1024), special("<|endoftext|>", 1025)]
    )

    private static func special(_ content: String, _ id: Int) -> AddedToken {
        AddedToken(content: content, id: id, special: true, lstrip: false, rstrip: false, singleWord: false, normalized: false)
    }

    private func tokenizer(_ spec: TokenizerSpec = Self.spec) throws -> ClipTokenizer {
        try ClipTokenizer(
            vocabData: Data(contentsOf: Self.demo.appendingPathComponent("vocab.json")),
            mergesData: Data(contentsOf: Self.demo.appendingPathComponent("merges.txt")),
            spec: spec
        )
    }

    /// Ids of transformers' CLIPTokenizer on the demo model's vocabulary.
    @Test func equalsTransformers() throws {
        let cases = try JSONDecoder().decode([Case].self, from: Fixtures.data("tokenizer_cases.json"))
        #expect(cases.count >= 500)
        let tokenizer = try tokenizer()
        for item in cases {
            let ids = tokenizer.encode(item.text)
            #expect(ids == item.ids, "\(item.text.unicodeScalars.map { String($0.value, radix: 16) })")
        }
    }

    private struct Group: Decodable {
        let padID: Int
        let addedTokens: [AddedToken]
        let cases: [Case]

        enum CodingKeys: String, CodingKey {
            case cases
            case padID = "pad_id"
            case addedTokens = "added_tokens"
        }
    }

    /// Added tokens of every kind; the ids are transformers' for what diffusers makes of each text.
    @Test func cutsAddedTokensOutAsTransformersDoes() throws {
        let groups = try JSONDecoder().decode([Group].self, from: Fixtures.data("added_token_cases.json"))
        #expect(groups.count == 3)
        for group in groups {
            let spec = TokenizerSpec(
                kind: .clip, vocab: "v", merges: "m", maxLength: 16, bosID: 1024, eosID: 1025, unkID: 1025, padID: group.padID,
                addedTokens: group.addedTokens
            )
            let tokenizer = try tokenizer(spec)
            #expect(group.cases.count > 50)
            for item in group.cases {
                #expect(tokenizer.encode(item.text) == item.ids, "\(item.text.unicodeScalars.map { String($0.value, radix: 16) })")
            }
        }
    }

    @Test func refusesFilesThatDoNotFit() throws {
        let vocab = Data(#"{"a":0,"b":1}"#.utf8)
        func kind(_ vocab: Data, _ merges: String, bos: Int = 0) -> String? {
            let spec = TokenizerSpec(
                kind: .clip, vocab: "v", merges: "m", maxLength: 4, bosID: bos, eosID: 1, unkID: 1, padID: 1, addedTokens: []
            )
            return thrownError { _ = try ClipTokenizer(vocabData: vocab, mergesData: Data(merges.utf8), spec: spec) }?.kind
        }
        #expect(kind(vocab, "") == nil)
        #expect(kind(vocab, "", bos: 7) == "bad_tokenizer")
        #expect(kind(vocab, "a b\n") == "bad_tokenizer")
        #expect(kind(vocab, "a\n") == "bad_tokenizer")
        #expect(kind(Data("[]".utf8), "") == "bad_tokenizer")
        #expect(kind(Data(#"{"a":"0","b":1}"#.utf8), "") == "bad_tokenizer")
    }

    /// Ids go to programs as 32-bit integers that are no less than 0.
    @Test(arguments: ["-1", "2147483648"]) func refusesIdsThatNoProgramTakes(_ id: String) throws {
        let bundle = try ModelBundle(opening: Fixtures.replay)
        let spec = bundle.manifest.tokenizer
        var vocab = String(decoding: try Data(contentsOf: bundle.path(spec.vocab)), as: UTF8.self)
        let brace = try #require(vocab.lastIndex(of: "}"))
        vocab.replaceSubrange(brace..., with: ", \"unheard\": \(id)}")
        let merges = try Data(contentsOf: bundle.path(spec.merges))
        let error = thrownError { _ = try ClipTokenizer(vocabData: Data(vocab.utf8), mergesData: merges, spec: spec) }
        #expect(error?.description.contains("is negative, or not below 2^31") == true, "\(String(describing: error))")
    }
}
