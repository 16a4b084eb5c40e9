import Foundation

/// How CLIP's tokenizer sees text: normalization and the split into words.
///
/// The reference composes by Unicode 10 and classifies letters and digits by Unicode 16, whatever the system's version.
/// A scalar's age tells which of them the reference knows. A system older than Unicode 16 (iOS 17 and before) knows fewer
/// letters; the scripts that differ are listed in Python's `s2p_runtime.tokenizer`.
enum ClipWords {
    /// NFC, white space to one space, lower case scalar by scalar (no final sigma).
    static func normalize(_ text: ArraySlice<Unicode.Scalar>) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        for scalar in compose(text) {
            if !scalar.properties.isWhitespace {
                result.append(contentsOf: scalar.properties.lowercaseMapping.unicodeScalars)
            } else if result.last != " " {
                result.append(" ")
            }
        }
        return result
    }

    /// Words of normalized text: contractions, runs of letters, single digits, runs of anything else but space.
    static func split(_ text: [Unicode.Scalar]) -> [ArraySlice<Unicode.Scalar>] {
        var words: [ArraySlice<Unicode.Scalar>] = []
        var position = 0
        while position < text.count {
            if text[position] == " " {
                position += 1
                continue
            }
            let rest = text[position...]
            if let literal = loweredSpecial.first(where: { rest.starts(with: $0) }) {
                // A special token in capitals is one match of CLIP's pattern, which the byte-level stage then splits.
                let end = position + literal.count
                words += [text[position..<position + 2], text[position + 2..<end - 2], text[end - 2..<end]]
                position = end
                continue
            }
            let end = contractions.first { rest.starts(with: $0) }.map { position + $0.count } ?? runEnd(text, position)
            words.append(text[position..<end])
            position = end
        }
        return words
    }

    /// Whether a scalar belongs to a word for tokens that stand alone: alphabetic, marks, decimal numbers, connecting
    /// punctuation and the two joiners (Unicode Technical Standard 18, annex C), of Unicode 16.
    static func inWord(_ scalar: Unicode.Scalar) -> Bool {
        guard known(scalar, byMajor: 16) else { return false }
        if scalar.properties.isAlphabetic || scalar.properties.isJoinControl { return true }
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
        default: return false
        }
    }

    private enum Kind {
        case space, letter, number, other
    }

    private static let loweredSpecial = ["<|startoftext|>", "<|endoftext|>"].map { Array($0.unicodeScalars) }
    private static let contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map { Array($0.unicodeScalars) }

    private static func runEnd(_ text: [Unicode.Scalar], _ start: Int) -> Int {
        let kind = kind(text[start])
        if kind == .number { return start + 1 }
        return text[start...].firstIndex { Self.kind($0) != kind } ?? text.count
    }

    private static func kind(_ scalar: Unicode.Scalar) -> Kind {
        if scalar == " " { return .space }
        guard known(scalar, byMajor: 16) else { return .other }
        switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return .letter
        case .decimalNumber, .letterNumber, .otherNumber: return .number
        default: return .other
        }
    }

    private static func known(_ scalar: Unicode.Scalar, byMajor version: Int) -> Bool {
        scalar.properties.age.map { $0.major <= version } ?? false
    }

    /// Whether canonical ordering may move the scalar.
    private static func isMark(_ scalar: Unicode.Scalar) -> Bool {
        scalar.properties.canonicalCombiningClass != .notReordered
    }

    /// NFC as Unicode 10 has it: newer scalars neither reorder nor compose, so the text is composed between them.
    ///
    /// Foundation takes a base beyond U+FFFF for the one with its low 16 bits (U+10041 U+0301 becomes U+00C1 in Swift 6.3
    /// on Linux). No such base composes with a mark up to U+FFFF, so the text is cut there, too.
    private static func compose(_ text: ArraySlice<Unicode.Scalar>) -> [Unicode.Scalar] {
        if text.allSatisfy({ $0.value < 0x300 }) { return Array(text) }
        var result: [Unicode.Scalar] = []
        var run = String.UnicodeScalarView()
        func flush() {
            result.append(contentsOf: String(run).precomposedStringWithCanonicalMapping.unicodeScalars)
            run = String.UnicodeScalarView()
        }
        for scalar in text {
            guard known(scalar, byMajor: 10) else {
                flush()
                result.append(scalar)
                continue
            }
            if let last = run.last, last.value > 0xFFFF, !isMark(last), scalar.value <= 0xFFFF, isMark(scalar) {
                flush()
            }
            run.append(scalar)
        }
        flush()
        return result
    }
}
