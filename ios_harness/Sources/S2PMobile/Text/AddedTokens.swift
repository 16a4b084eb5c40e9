/// What is cut out of a text before the rest is split into words, and words that stand for several tokens: step by step
/// Python's `s2p_runtime.added_tokens`.
struct AddedTokens: Sendable {
    /// A stretch of a text: normalized, unless it is a token that is not.
    struct Piece {
        let text: [Unicode.Scalar]
        /// Of the added token that it is; nil: words.
        let id: Int?
    }

    private let plain, normal: Spellings
    /// Words that stand for several tokens -> the words of all of them.
    private let several: [[Unicode.Scalar]: [Unicode.Scalar]]

    init(_ tokens: [AddedToken]) {
        var plain = Spellings()
        var normal = Spellings()
        // Special ones first: of two with one spelling the first counts.
        for token in tokens.filter(\.special) + tokens.filter({ !$0.special }) {
            let content = Array(token.content.unicodeScalars)
            if token.normalized {
                normal.add(ClipWords.normalize(content[...]), token)
            } else {
                plain.add(content, token)
            }
        }
        self.plain = plain
        self.normal = normal
        several = Self.several(tokens.map { Array($0.content.unicodeScalars) })
    }

    /// A text cut into added tokens and what lies between them.
    func pieces(_ text: [Unicode.Scalar]) -> [Piece] {
        plain.cut(text).flatMap { $0.id == nil ? normal.cut(ClipWords.normalize($0.text[...])) : [$0] }
    }

    /// A text with every word of several vectors written out: `<a>` becomes `<a> <a>_1 <a>_2`.
    func expand(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        if several.isEmpty { return text }
        var found: [[Unicode.Scalar]] = []
        for piece in pieces(text) where piece.id != nil && !found.contains(piece.text) {
            found.append(piece.text)
        }
        return found.reduce(text) { written, word in several[word].map { replace(word, with: $0, in: written) } ?? written }
    }

    /// `<a>_1` follows `<a>`.
    private static func several(_ contents: [[Unicode.Scalar]]) -> [[Unicode.Scalar]: [Unicode.Scalar]] {
        let known = Set(contents)
        var written: [[Unicode.Scalar]: [Unicode.Scalar]] = [:]
        for first in contents {
            var words = first
            var count = 1
            while case let next = first + Array("_\(count)".unicodeScalars), known.contains(next) {
                words += [" "] + next
                count += 1
            }
            if count > 1 { written[first] = words }
        }
        return written
    }

    private func replace(_ word: [Unicode.Scalar], with other: [Unicode.Scalar], in text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        var place = 0
        while place < text.count {
            if text[place...].starts(with: word) {
                result += other
                place += word.count
            } else {
                result.append(text[place])
                place += 1
            }
        }
        return result
    }
}

/// Tokens by their spelling.
private struct Spellings: Sendable {
    private var tokens: [[Unicode.Scalar]: AddedToken] = [:]
    /// Descending.
    private var lengths: [Int] = []

    mutating func add(_ spelling: [Unicode.Scalar], _ token: AddedToken) {
        guard tokens[spelling] == nil else { return }
        tokens[spelling] = token
        if !lengths.contains(spelling.count) {
            lengths.append(spelling.count)
            lengths.sort(by: >)
        }
    }

    func cut(_ text: [Unicode.Scalar]) -> [AddedTokens.Piece] {
        var pieces: [AddedTokens.Piece] = []
        var done = 0
        var place = 0
        while place < text.count, !tokens.isEmpty {
            guard let (token, length) = longest(text, place) else {
                place += 1
                continue
            }
            var start = place
            var stop = place + length
            place = stop
            let touched = (start > 0 && ClipWords.inWord(text[start - 1])) || (stop < text.count && ClipWords.inWord(text[stop]))
            if token.singleWord && touched { continue }
            if token.lstrip {
                while start > 0, text[start - 1].properties.isWhitespace { start -= 1 }
                // White space that the token before took stays with it.
                start = max(start, done)
            }
            if token.rstrip {
                while stop < text.count, text[stop].properties.isWhitespace { stop += 1 }
            }
            if done < start { pieces.append(AddedTokens.Piece(text: Array(text[done..<start]), id: nil)) }
            pieces.append(AddedTokens.Piece(text: Array(text[start..<stop]), id: token.id))
            done = stop
        }
        if done < text.count { pieces.append(AddedTokens.Piece(text: Array(text[done...]), id: nil)) }
        return pieces
    }

    private func longest(_ text: [Unicode.Scalar], _ place: Int) -> (AddedToken, Int)? {
        for length in lengths where place + length <= text.count {
            if let token = tokens[Array(text[place..<place + length])] { return (token, length) }
        }
        return nil
    }
}
