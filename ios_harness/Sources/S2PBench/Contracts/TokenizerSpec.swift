/// A token that is cut out of a text before the rest is split into words, see `AddedTokens`.
public struct AddedToken: Codable, Equatable, Sendable {
    public let content: String
    public let id: Int
    /// Of two with the same spelling it comes first.
    public let special: Bool
    /// White space before it goes with it.
    public let lstrip: Bool
    /// White space behind it goes with it.
    public let rstrip: Bool
    /// It counts only where no letter, mark, digit or underscore touches it.
    public let singleWord: Bool
    /// It is looked for in normalized text, where capitals are small.
    public let normalized: Bool

    enum CodingKeys: String, CodingKey {
        case content, id, special, lstrip, rstrip, normalized
        case singleWord = "single_word"
    }
}

/// A CLIP byte-pair tokenizer: paths in the bundle, the ids that frame a prompt, and what is cut out of texts.
public struct TokenizerSpec: Codable, Equatable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case clip
    }

    public static let maximumAddedTokens = 65_536

    public let kind: Kind
    public let vocab: String
    public let merges: String
    public let maxLength: Int
    public let bosID: Int
    public let eosID: Int
    /// Stands for a byte that the vocabulary lacks.
    public let unkID: Int
    public let padID: Int
    public let addedTokens: [AddedToken]

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
        try require(maxLength >= 2, "\(field).max_length", "must be at least 2")
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
public struct Conditioning: Codable, Equatable, Sendable {
    public let secondTokenizer: TokenizerSpec
    /// The unconditional branch gets zeros in place of the encoded empty text.
    public let zeroUnconditional: Bool
    /// Original height and width, top and left of the crop, target height and width.
    public let timeIDs: [Double]

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
