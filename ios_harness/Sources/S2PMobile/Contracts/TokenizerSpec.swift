/// A token that is cut out of a text before the rest is split into words, see `AddedTokens`.
package struct AddedToken: Codable, Equatable, Sendable {
    package let content: String
    package let id: Int
    /// Of two with the same spelling it comes first.
    package let special: Bool
    /// White space before it goes with it.
    package let lstrip: Bool
    /// White space behind it goes with it.
    package let rstrip: Bool
    /// It counts only where no letter, mark, digit or underscore touches it.
    package let singleWord: Bool
    /// It is looked for in normalized text, where capitals are small.
    package let normalized: Bool

    enum CodingKeys: String, CodingKey {
        case content, id, special, lstrip, rstrip, normalized
        case singleWord = "single_word"
    }
}

/// A CLIP byte-pair tokenizer: paths in the bundle, the ids that frame a prompt, and what is cut out of texts.
package struct TokenizerSpec: Codable, Equatable, Sendable {
    package enum Kind: String, Codable, Sendable {
        case clip
    }

    package static let maximumAddedTokens = 65_536
    /// The C++ reader has the same.
    package static let maximumTokens = 65_536

    package let kind: Kind
    package let vocab: String
    package let merges: String
    package let maxLength: Int
    package let bosID: Int
    package let eosID: Int
    /// Stands for a byte that the vocabulary lacks.
    package let unkID: Int
    package let padID: Int
    package let addedTokens: [AddedToken]

    enum CodingKeys: String, CodingKey {
        case kind, vocab, merges
        case maxLength = "max_length"
        case bosID = "bos_id"
        case eosID = "eos_id"
        case unkID = "unk_id"
        case padID = "pad_id"
        case addedTokens = "added_tokens"
    }

    /// - Parameter field: where it stands in the manifest.
    func validate(_ field: String) throws(ContractViolation) {
        try require((2...Self.maximumTokens).contains(maxLength), "\(field).max_length", "must be from 2 to \(Self.maximumTokens)")
        let ids = [bosID, eosID, unkID, padID] + addedTokens.map(\.id)
        try require(ids.allSatisfy { $0 >= 0 && $0 <= Int32.max }, field, "ids must not be negative, and below 2^31")
        let most = Self.maximumAddedTokens
        try require(addedTokens.count <= most, "\(field).added_tokens", "are more than \(most)")
        try require(addedTokens.allSatisfy { !$0.content.isEmpty }, "\(field).added_tokens", "content must not be empty")
        // By bytes: String equality follows canonical equivalence, which token text does not.
        let contents = Set(addedTokens.map { Array($0.content.utf8) })
        try require(contents.count == addedTokens.count, "\(field).added_tokens", "two have the same content")
    }
}

/// What a family with two text encoders (SDXL) adds to a prompt: the second encoder's tokenizer, and what makes the time table.
package struct Conditioning: Codable, Equatable, Sendable {
    package let secondTokenizer: TokenizerSpec
    /// The unconditional branch gets zeros in place of the encoded empty text.
    package let zeroUnconditional: Bool
    /// Original height and width, top and left of the crop, target height and width.
    package let timeIDs: [Double]

    enum CodingKeys: String, CodingKey {
        case secondTokenizer = "second_tokenizer"
        case zeroUnconditional = "zero_unconditional"
        case timeIDs = "time_ids"
    }

    func validate(length: Int) throws(ContractViolation) {
        try secondTokenizer.validate("conditioning.second_tokenizer")
        let same = secondTokenizer.maxLength == length
        try require(same, "conditioning.second_tokenizer.max_length", "is another than that of tokenizer")
        try require(timeIDs.count == 6, "conditioning.time_ids", "must be six numbers")
    }
}
