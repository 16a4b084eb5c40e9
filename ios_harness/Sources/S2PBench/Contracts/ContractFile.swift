import Foundation

/// Reads and validates a contract.
///
/// - Parameter name: how messages call the file.
/// - Throws: `notJSON`, `wrongFormat`, `badVersion`, `futureVersion` or `invalid`.
public func decodeContract<T: Contract>(_ type: T.Type, from data: Data, name: String) throws(BenchError) -> T {
    let document = try parseJSON(data, name: name)
    guard let fields = document as? [String: Any], fields["format"] as? String == T.formatName else {
        throw .wrongFormat(file: name, expected: T.formatName)
    }
    guard let version = try? JSONDecoder().decode(VersionField.self, from: data).version, version >= 1 else {
        throw .badVersion(file: name)
    }
    guard version <= T.formatVersion else {
        throw .futureVersion(file: name, found: version, supported: T.formatVersion)
    }
    let value: T
    do {
        value = try JSONDecoder().decode(T.self, from: data)
    } catch let error as DecodingError {
        throw .invalid(file: name, problem: describe(error))
    } catch {
        throw .invalid(file: name, problem: "\(error)")
    }
    // What the type knows is what it writes: any other key of the document is unknown.
    if let known = try? parseJSON(encodeContract(value), name: name), let path = unknownKey(document, known) {
        throw .invalid(file: name, problem: "\(path): unknown field")
    }
    do {
        try value.validate()
    } catch {
        throw .invalid(file: name, problem: error.problem)
    }
    return value
}

/// A contract as indented JSON with sorted keys and a final newline; doubles keep every bit.
///
/// - Throws: `invalid` when a number is not finite or the value breaks its contract.
public func encodeContract<T: Contract>(_ value: T) throws(BenchError) -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    do {
        return try encoder.encode(value) + Data("\n".utf8)
    } catch {
        throw .invalid(file: T.formatName, problem: "a number is not finite")
    }
}

private struct VersionField: Decodable {
    let version: Int
}

private func parseJSON(_ data: Data, name: String) throws(BenchError) -> Any {
    do {
        return try JSONSerialization.jsonObject(with: data, options: [.fragmentsAllowed])
    } catch {
        let reason = (error as NSError).userInfo["NSDebugDescription"] as? String ?? "not JSON"
        throw .notJSON(file: name, reason: reason.split(separator: "\n").joined(separator: " "))
    }
}

/// Dotted path of the first key (in sorted order) of `document` that `known` lacks.
private func unknownKey(_ document: Any, _ known: Any, path: String = "") -> String? {
    if let fields = document as? [String: Any] {
        guard let knownFields = known as? [String: Any] else { return path }
        for (key, value) in fields.sorted(by: { $0.key < $1.key }) {
            let child = path.isEmpty ? key : "\(path).\(key)"
            guard let knownValue = knownFields[key] else { return child }
            if let found = unknownKey(value, knownValue, path: child) { return found }
        }
    } else if let items = document as? [Any], let knownItems = known as? [Any] {
        for (index, (value, knownValue)) in zip(items, knownItems).enumerated() {
            if let found = unknownKey(value, knownValue, path: "\(path).\(index)") { return found }
        }
    }
    return nil
}

private func describe(_ error: DecodingError) -> String {
    func dotted(_ context: DecodingError.Context, _ last: (any CodingKey)? = nil) -> String {
        let path = (context.codingPath + (last.map { [$0] } ?? [])).map { $0.intValue.map(String.init) ?? $0.stringValue }
        return path.isEmpty ? "value" : path.joined(separator: ".")
    }
    switch error {
    case .keyNotFound(let key, let context): return "\(dotted(context, key)): field is missing"
    case .valueNotFound(_, let context): return "\(dotted(context)): must not be null"
    case .typeMismatch(let type, let context): return "\(dotted(context)): is not \(type)"
    case .dataCorrupted(let context): return "\(dotted(context)): \(context.debugDescription)"
    @unknown default: return "value: \(error)"
    }
}
