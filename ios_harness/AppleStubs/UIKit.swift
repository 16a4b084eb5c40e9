import Foundation

@MainActor public final class UIApplication {
    public static var shared: UIApplication { fatalError() }
    public var isIdleTimerDisabled = false
}

public final class UIImage: @unchecked Sendable {
    public init?(data: Data) { fatalError() }
}
