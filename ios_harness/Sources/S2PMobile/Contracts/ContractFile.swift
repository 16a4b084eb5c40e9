import Foundation

/// Reads and validates a contract.
///
/// - Parameter name: how messages call the file.
/// - Throws: `notJSON`, `wrongFormat`, `badVersion`, `futureVersion` or `invalid`.
package func decodeContract<T: Contract>(_ type: T.Type, from data: Data, name: String) throws(S2PError) -> T {
    var (data, document) = (data, try parseJSON(data, name: name))
    guard let fields = document as? [String: Any], fields["format"] as? String == T.formatName else {
        throw .wrongFormat(file: name, expected: T.formatName)
    }
    guard !isFraction(fields["version"]), let version = try? JSONDecoder().decode(VersionField.self, from: data).version, version >= 1 else {
        throw .badVersion(file: name)
    }
    guard version <= T.formatVersion else {
        throw .futureVersion(file: name, found: version, supported: T.formatVersion)
    }
    if version < T.formatVersion {
        document = try renewed(fields, as: T.self, from: version, name: name)
        data = (try? JSONSerialization.data(withJSONObject: document)) ?? data
    }
    let value: T
    do {
        value = try JSONDecoder().decode(T.self, from: data)
    } catch let error as DecodingError {
        throw .invalid(file: name, problem: describe(error))
    } catch {
        throw .invalid(file: name, problem: "\(error)")
    }
    if let path = fractionForInteger(T.self, document) {
        throw .invalid(file: name, problem: "\(path): is not an integer")
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
package func encodeContract<T: Contract>(_ value: T) throws(S2PError) -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    do {
        return try encoder.encode(value) + Data("\n".utf8)
    } catch {
        throw .invalid(file: T.formatName, problem: "a number is not finite")
    }
}

/// The fields of a document of an older version in the form of this one.
private func renewed<T: Contract>(
    _ fields: [String: Any], as type: T.Type, from version: Int, name: String
) throws(S2PError) -> [String: Any] {
    let added = T.added(since: version)
    if let known = added.keys.sorted().first(where: { fields[$0] != nil }) {
        throw .invalid(file: name, problem: "\(known): unknown in version \(version)")
    }
    return fields.merging(added as [String: Any]) { own, _ in own }.merging(["version": T.formatVersion]) { $1 }
}

private struct VersionField: Decodable {
    let version: Int
}

private func parseJSON(_ data: Data, name: String) throws(S2PError) -> Any {
    do {
        return try JSONSerialization.jsonObject(with: data, options: [.fragmentsAllowed])
    } catch {
        let reason = (error as? CocoaError)?.userInfo["NSDebugDescription"] as? String ?? "not JSON"
        throw .notJSON(file: name, reason: reason.split(separator: "\n").joined(separator: " "))
    }
}

/// Whether a parsed number was written with a point or an exponent.
private func isFraction(_ value: Any?) -> Bool {
    guard let number = value as? NSNumber else { return false }
    return ["d", "f"].contains(String(cString: number.objCType))
}

/// Dotted path of a number written with a point or an exponent where the contract has an integer; nil when there is none.
///
/// `JSONDecoder` takes 5.0 for an integer, which the Python and C++ readers refuse. No integer field takes 0.5, and a
/// field of doubles does not mind, so all such numbers are replaced at once, and one by one when that fails.
private func fractionForInteger<T: Decodable>(_ type: T.Type, _ document: Any) -> String? {
    var fractions: [String] = []
    func replaced(_ node: Any, _ path: String, only chosen: String?) -> Any {
        func child(_ key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }
        if let fields = node as? [String: Any] {
            return Dictionary(uniqueKeysWithValues: fields.map { ($0, replaced($1, child($0), only: chosen)) })
        }
        if let items = node as? [Any] {
            return items.enumerated().map { replaced($1, child(String($0)), only: chosen) }
        }
        guard isFraction(node), chosen == nil || chosen == path else { return node }
        fractions.append(path)
        return 0.5
    }
    func decodes(only chosen: String?) -> Bool {
        guard let data = try? JSONSerialization.data(withJSONObject: replaced(document, "", only: chosen)) else { return true }
        return (try? JSONDecoder().decode(type, from: data)) != nil
    }
    if decodes(only: nil) { return nil }
    return fractions.sorted().first { !decodes(only: $0) }
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
