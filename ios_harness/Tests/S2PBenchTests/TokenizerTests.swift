import Foundation
import Testing

@testable import S2PBench

@Suite struct TokenizerTests {
    private struct Case: Decodable {
        let text: String
        let ids: [Int32]
    }

    static let demo = Fixtures.repository.appendingPathComponent("sdk/s2p_mobile/demo/model/tokenizer")
    static let spec = TokenizerSpec(
        kind: .clip, vocab: "vocab.json", merges: "merges.txt", maxLength: 16, bosID: 1024, eosID: 1025, padID: 1025
    )

    private func tokenizer() throws -> ClipTokenizer {
        try ClipTokenizer(
            vocabData: Data(contentsOf: Self.demo.appendingPathComponent("vocab.json")),
            mergesData: Data(contentsOf: Self.demo.appendingPathComponent("merges.txt")),
            spec: Self.spec
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

    @Test func refusesFilesThatDoNotFit() throws {
        let vocab = Data(#"{"a":0,"b":1}"#.utf8)
        func kind(_ vocab: Data, _ merges: String, bos: Int = 0) -> String? {
            let spec = TokenizerSpec(kind: .clip, vocab: "v", merges: "m", maxLength: 4, bosID: bos, eosID: 1, padID: 1)
            return benchError { _ = try ClipTokenizer(vocabData: vocab, mergesData: Data(merges.utf8), spec: spec) }?.kind
        }
        #expect(kind(vocab, "") == nil)
        #expect(kind(vocab, "", bos: 7) == "bad_tokenizer")
        #expect(kind(vocab, "a b\n") == "bad_tokenizer")
        #expect(kind(vocab, "a\n") == "bad_tokenizer")
        #expect(kind(Data("[]".utf8), "") == "bad_tokenizer")
        #expect(kind(Data(#"{"a":"0","b":1}"#.utf8), "") == "bad_tokenizer")
    }
}
