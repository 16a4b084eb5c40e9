import Foundation

/// A JSON file format that carries `format` and `version`. Every field is always written and must be there when read; what there
/// is not is null or empty.
///
/// Coding is synthesized. What the Codable types cannot say is added here and in `validate()`: unknown fields are
/// errors, a version from the future is an error, numbers keep their ranges.
package protocol Contract: Codable, Equatable, Sendable {
    static var formatName: String { get }
    static var formatVersion: Int { get }

    /// Fields of the document that a file of an older version lacks, each with what stands for it.
    static func added(since version: Int) -> [String: any Sendable]

    /// Throws `ContractViolation` when a field is outside its range or fields do not fit together.
    func validate() throws(ContractViolation)
}

extension Contract {
    package static func added(since version: Int) -> [String: any Sendable] { [:] }
}

/// A value that decodes but breaks the contract: `field: message`.
package struct ContractViolation: Error, Equatable {
    package let problem: String

    package init(_ field: String, _ message: String) {
        problem = "\(field): \(message)"
    }
}

/// Throws a violation of `field` unless `condition` holds.
package func require(_ condition: Bool, _ field: @autoclosure () -> String, _ message: String) throws(ContractViolation) {
    if !condition {
        throw ContractViolation(field(), message)
    }
}

package func isSHA256(_ text: String) -> Bool {
    text.utf8.count == 64 && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
}

/// Whether this is how targets are named: a small letter, then small letters, digits and dashes.
package func isTargetName(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    guard let first = bytes.first, (97...122).contains(first) else { return false }
    return bytes.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 45 }
}

/// Whether this may be the name of a function of a program.
package func isIdentifier(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    let isLetter = { (byte: UInt8) in (65...90).contains(byte) || (97...122).contains(byte) || byte == 95 }
    guard let first = bytes.first, isLetter(first) else { return false }
    return bytes.allSatisfy { isLetter($0) || (48...57).contains($0) }
}

/// An optional that is always written, as null when empty, and whose field must be there when read.
///
/// The report tells "not measured" (null) from "forgotten" (absent), as the Python contract does.
@propertyWrapper
package struct Nullable<Value: Codable & Equatable & Sendable>: Codable, Equatable, Sendable {
    package var wrappedValue: Value?

    package init(wrappedValue: Value?) {
        self.wrappedValue = wrappedValue
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        wrappedValue = container.decodeNil() ? nil : try container.decode(Value.self)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        if let wrappedValue {
            try container.encode(wrappedValue)
        } else {
            try container.encodeNil()
        }
    }
}
