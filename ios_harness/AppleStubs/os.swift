/// Stands for string interpolations of signposts.
public struct SignpostMetadata: ExpressibleByStringInterpolation {
    public init(stringLiteral value: String) {}
}

public struct OSSignpostIntervalState: Sendable {}

public struct OSSignposter: Sendable {
    public enum Category: Sendable {
        case pointsOfInterest
    }

    public init(subsystem: String, category: Category) {}
    public func beginInterval(_ name: StaticString) -> OSSignpostIntervalState { fatalError() }
    public func beginInterval(_ name: StaticString, _ message: SignpostMetadata) -> OSSignpostIntervalState { fatalError() }
    public func endInterval(_ name: StaticString, _ state: OSSignpostIntervalState) {}
}
