import Foundation

/// The CLIP byte-pair tokenizer, equal to transformers' `CLIPTokenizer` id for id.
///
/// 1. words that stand for several added tokens are written out, and the added tokens are cut out (`AddedTokens`);
/// 2. the rest is normalized and split into words (`ClipWords`);
/// 3. the UTF-8 bytes of a word are spelled with GPT-2's 256 printable characters, `</w>` marks the last one, and
///    neighbours are joined in the order of the merge list (Sennrich et al., 2016);
/// 4. the ids are cut to `maxLength - 2`, framed by bos and eos and padded.
package struct ClipTokenizer: Sendable {
    private struct Pair: Hashable {
        let left, right: Int
    }

    private struct Merge {
        let rank, joined: Int
    }

    private let spec: TokenizerSpec
    /// Id of each byte, inside a word and at its end.
    private let byteIDs, lastByteIDs: [Int]
    private let merges: [Pair: Merge]
    private let added: AddedTokens

    /// - Throws: `badTokenizer` when ids of `spec` or tokens of a merge are not in the vocabulary.
    package init(vocab: [String: Int], merges: [(String, String)], spec: TokenizerSpec) throws(S2PError) {
        self.spec = spec
        // Keyed by bytes: String equality follows canonical equivalence, which token text does not.
        let ids = Dictionary(vocab.map { (Array($0.key.utf8), $0.value) }, uniquingKeysWith: { first, _ in first })
        let known = Set(vocab.values).union(spec.addedTokens.map(\.id))
        for id in [spec.bosID, spec.eosID, spec.unkID, spec.padID] where !known.contains(id) {
            throw .badTokenizer(reason: "the vocabulary has no token of id \(id)")
        }
        added = AddedTokens(spec.addedTokens)
        let spelling = byteSpelling.map { Array(String($0).utf8) }
        byteIDs = spelling.map { ids[$0] ?? spec.unkID }
        lastByteIDs = spelling.map { ids[$0 + Array("</w>".utf8)] ?? spec.unkID }
        var table: [Pair: Merge] = [:]
        for (rank, (left, right)) in merges.enumerated() {
            guard let leftID = ids[Array(left.utf8)], let rightID = ids[Array(right.utf8)],
                let joined = ids[Array(left.utf8) + Array(right.utf8)]
            else {
                throw .badTokenizer(reason: "merge \(rank + 1) needs a token that is not in the vocabulary")
            }
            table[Pair(left: leftID, right: rightID)] = Merge(rank: rank, joined: joined)
        }
        self.merges = table
    }

    /// Reads a tokenizer of a bundle: the manifest's first one, or that of `spec`.
    ///
    /// - Throws: `notJSON`, `badTokenizer`, `outside`.
    package init(bundle: ModelBundle, spec other: TokenizerSpec? = nil) throws(S2PError) {
        let spec = other ?? bundle.manifest.tokenizer
        guard let vocabData = try? Data(contentsOf: bundle.path(spec.vocab)),
            let mergesData = try? Data(contentsOf: bundle.path(spec.merges))
        else {
            throw .missingFile(folder: bundle.folder.lastPathComponent, path: spec.vocab)
        }
        try self.init(vocabData: vocabData, mergesData: mergesData, spec: spec)
    }

    /// - Throws: `badTokenizer`.
    package init(vocabData: Data, mergesData: Data, spec: TokenizerSpec) throws(S2PError) {
        guard let vocab = try? JSONDecoder().decode([String: Int].self, from: vocabData) else {
            throw .badTokenizer(reason: "the vocabulary is not a JSON object of token: id")
        }
        guard vocab.values.allSatisfy({ (0...Int(Int32.max)).contains($0) }) else {
            throw .badTokenizer(reason: "an id of the vocabulary is negative, or not below 2^31")
        }
        guard let text = String(data: mergesData, encoding: .utf8) else {
            throw .badTokenizer(reason: "the merge list is not UTF-8 text")
        }
        var merges: [(String, String)] = []
        // Split by scalar: "\r\n" is one Character.
        for line in text.unicodeScalars.split(whereSeparator: { $0 == "\n" || $0 == "\r" }) {
            let content = String(String.UnicodeScalarView(line))
            if content.hasPrefix("#version") || line.allSatisfy({ $0 == " " }) { continue }
            let pair = line.split(separator: " ", omittingEmptySubsequences: false).map { String(String.UnicodeScalarView($0)) }
            guard pair.count == 2, !pair[0].isEmpty, !pair[1].isEmpty else {
                throw .badTokenizer(reason: "a line of the merge list is not two tokens and one space")
            }
            merges.append((pair[0], pair[1]))
        }
        try self.init(vocab: vocab, merges: merges, spec: spec)
    }

    /// Words of several vectors are written out first. bos, at most `maxLength - 2` tokens, eos, then pad up to `maxLength`.
    package func encode(_ text: String) -> [Int32] {
        let ids = tokenize(added.expand(Array(text.unicodeScalars)))
        let framed = [spec.bosID] + ids.prefix(spec.maxLength - 2) + [spec.eosID]
        let padded = framed + [Int](repeating: spec.padID, count: spec.maxLength - framed.count)
        return padded.map { Int32(truncatingIfNeeded: $0) }
    }

    /// All token ids of `text` as it stands, neither framed nor cut.
    package func tokenize(_ text: String) -> [Int] { tokenize(Array(text.unicodeScalars)) }

    private func tokenize(_ text: [Unicode.Scalar]) -> [Int] {
        added.pieces(text).flatMap { piece in
            piece.id.map { [$0] } ?? ClipWords.split(piece.text).flatMap(wordIDs)
        }
    }

    private func wordIDs(_ word: ArraySlice<Unicode.Scalar>) -> [Int] {
        var text = String.UnicodeScalarView()
        text.append(contentsOf: word)
        let bytes = Array(String(text).utf8)
        var ids = bytes.dropLast().map { byteIDs[Int($0)] } + bytes.suffix(1).map { lastByteIDs[Int($0)] }
        // The pair that stands first in the merge list, and of equal pairs the leftmost.
        while let (place, merge) = bestMerge(ids) {
            ids[place] = merge.joined
            ids.remove(at: place + 1)
        }
        return ids
    }

    private func bestMerge(_ ids: [Int]) -> (Int, Merge)? {
        var best: (Int, Merge)?
        for place in ids.indices.dropLast() {
            if let merge = merges[Pair(left: ids[place], right: ids[place + 1])], merge.rank < best?.1.rank ?? .max {
                best = (place, merge)
            }
        }
        return best
    }
}

/// GPT-2's spelling of the 256 bytes: printable Latin-1 stands for itself, the others for U+0100 and up, in order.
let byteSpelling: [Unicode.Scalar] = {
    var next: UInt32 = 0x100
    return (0..<256).map { byte in
        switch byte {
        case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF:
            return Unicode.Scalar(UInt8(byte))
        default:
            defer { next += 1 }
            return Unicode.Scalar(next) ?? "?"
        }
    }
}()
