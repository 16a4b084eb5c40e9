// Signposts, and what a process may still take.

/// https://developer.apple.com/documentation/os/oslog
public struct OSLog {
    public struct Category: Sendable { public static var pointsOfInterest: Category { Category() } }
}

/// https://developer.apple.com/documentation/os/signpostmetadata
public struct SignpostMetadata: ExpressibleByStringInterpolation {
    public init(stringLiteral value: String) {}
    public init(stringInterpolation: DefaultStringInterpolation) {}
}

/// https://developer.apple.com/documentation/os/ossignpostid
public struct OSSignpostID: Sendable { public static let exclusive = OSSignpostID() }

/// https://developer.apple.com/documentation/os/ossignpostintervalstate
public final class OSSignpostIntervalState: @unchecked Sendable {}

/// https://developer.apple.com/documentation/os/ossignposter
@available(macOS 12.0, iOS 15.0, *)
public struct OSSignposter: @unchecked Sendable {
    public init(subsystem: String, category: OSLog.Category) {}
    public func beginInterval(_ name: StaticString, id: OSSignpostID = .exclusive) -> OSSignpostIntervalState { fatalError() }
    public func beginInterval(_ name: StaticString, id: OSSignpostID = .exclusive, _ message: SignpostMetadata) -> OSSignpostIntervalState {
        fatalError()
    }
    public func endInterval(_ name: StaticString, _ state: OSSignpostIntervalState) {}
}

/// https://developer.apple.com/documentation/os/os_proc_available_memory
@available(iOS 13.0, *)
public func os_proc_available_memory() -> Int { 0 }
