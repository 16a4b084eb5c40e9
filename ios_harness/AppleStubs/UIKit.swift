// The device, the app and its pictures.
@_exported import CoreGraphics
@_exported import Foundation

/// https://developer.apple.com/documentation/uikit/uidevice
@MainActor open class UIDevice {
    public enum BatteryState: Int, Sendable { case unknown, unplugged, charging, full }
    public class var current: UIDevice { fatalError() }
    public var isBatteryMonitoringEnabled = false
    public var batteryState: BatteryState { .unknown }
    public var batteryLevel: Float { 0 }
}

/// https://developer.apple.com/documentation/uikit/uiapplication
@MainActor open class UIApplication {
    public enum State: Int, Sendable { case active, inactive, background }
    public class var shared: UIApplication { fatalError() }
    public var isIdleTimerDisabled = false
    public var applicationState: State { .active }
    public var isProtectedDataAvailable: Bool { true }
    nonisolated public class var didEnterBackgroundNotification: Notification.Name { fatalError() }
    nonisolated public class var willEnterForegroundNotification: Notification.Name { fatalError() }
    nonisolated public class var protectedDataWillBecomeUnavailableNotification: Notification.Name { fatalError() }
    nonisolated public class var protectedDataDidBecomeAvailableNotification: Notification.Name { fatalError() }
}

/// https://developer.apple.com/documentation/uikit/uiimage
open class UIImage: @unchecked Sendable {
    public init?(data: Data) { nil }
}
