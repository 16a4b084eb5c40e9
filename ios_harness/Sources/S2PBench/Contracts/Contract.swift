import Foundation

/// A JSON file format that carries `format` and `version`.
///
/// Coding is synthesized. What the Codable types cannot say is added here and in `validate()`: unknown fields are
/// errors, a version from the future is an error, numbers keep their ranges.
public protocol Contract: Codable, Equatable, Sendable {
    static var formatName: String { get }
    static var formatVersion: Int { get }

    /// Throws `ContractViolation` when a field is outside its range or fields do not fit together.
    func validate() throws(ContractViolation)
}

/// A value that decodes but breaks the contract: `field: message`.
public struct ContractViolation: Error, Equatable {
    public let problem: String

    public init(_ field: String, _ message: String) {
        problem = "\(field): \(message)"
    }
}

/// Throws a violation of `field` unless `condition` holds.
func require(_ condition: Bool, _ field: @autoclosure () -> String, _ message: String) throws(ContractViolation) {
    if !condition {
        throw ContractViolation(field(), message)
    }
}

func isSHA256(_ text: String) -> Bool {
    text.utf8.count == 64 && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
}

/// An optional that is always written, as null when empty, and whose field must be there when read.
///
/// The report tells "not measured" (null) from "forgotten" (absent), as the Python contract does.
@propertyWrapper
public struct Nullable<Value: Codable & Equatable & Sendable>: Codable, Equatable, Sendable {
    public var wrappedValue: Value?

    public init(wrappedValue: Value?) {
        self.wrappedValue = wrappedValue
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        wrappedValue = container.decodeNil() ? nil : try container.decode(Value.self)
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        if let wrappedValue {
            try container.encode(wrappedValue)
        } else {
            try container.encodeNil()
        }
    }
}

/// A field with a default: it may be absent when read and is always written.
@propertyWrapper
public struct Defaulted<Source: DefaultSource>: Codable, Equatable, Sendable {
    public var wrappedValue: Source.Value

    public init(wrappedValue: Source.Value) {
        self.wrappedValue = wrappedValue
    }

    public init(from decoder: any Decoder) throws {
        wrappedValue = try decoder.singleValueContainer().decode(Source.Value.self)
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(wrappedValue)
    }
}

/// Where a `Defaulted` field takes its value from when it is absent.
public protocol DefaultSource: Equatable, Sendable {
    associatedtype Value: Codable & Equatable & Sendable
    static var value: Value { get }
}

public enum Zero: DefaultSource { public static let value = 0.0 }
public enum EmptyMap<Value: Codable & Equatable & Sendable>: DefaultSource {
    public static var value: [String: Value] { [:] }
}
public enum EmptyList<Element: Codable & Equatable & Sendable>: DefaultSource {
    public static var value: [Element] { [] }
}
public enum Null<Wrapped: Codable & Equatable & Sendable>: DefaultSource {
    public static var value: Wrapped? { nil }
}

extension KeyedDecodingContainer {
    /// Found by synthesized `init(from:)` in place of the general `decode`, so that an absent field takes its default.
    public func decode<Source>(_ type: Defaulted<Source>.Type, forKey key: Key) throws -> Defaulted<Source> {
        guard contains(key) else { return Defaulted(wrappedValue: Source.value) }
        return try Defaulted(from: superDecoder(forKey: key))
    }
}
