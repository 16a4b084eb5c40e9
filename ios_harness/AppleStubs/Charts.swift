// What the bench's screen draws.
import SwiftUI

/// https://developer.apple.com/documentation/charts/chartcontent
@available(iOS 16.0, macOS 13.0, *)
@MainActor @preconcurrency public protocol ChartContent {
    associatedtype Body: ChartContent
    @MainActor @preconcurrency var body: Body { get }
}

extension Never: ChartContent {}

/// https://developer.apple.com/documentation/charts/plottable
public protocol Plottable {}
extension Double: Plottable {}
extension String: Plottable {}

/// https://developer.apple.com/documentation/charts/plottablevalue
public struct PlottableValue<Value: Plottable> {
    public static func value(_ labelKey: LocalizedStringKey, _ value: Value) -> PlottableValue<Value> { fatalError() }
}

/// https://developer.apple.com/documentation/charts/interpolationmethod
public struct InterpolationMethod: Sendable {
    public static var stepEnd: InterpolationMethod { .init() }
}

/// https://developer.apple.com/documentation/charts/linemark
@available(iOS 16.0, macOS 13.0, *)
public struct LineMark: ChartContent {
    nonisolated public init<X: Plottable, Y: Plottable>(x: PlottableValue<X>, y: PlottableValue<Y>) {}
    public var body: Never { fatalError() }
}

@available(iOS 16.0, macOS 13.0, *)
extension ChartContent {
    nonisolated public func interpolationMethod(_ method: InterpolationMethod) -> some ChartContent {
        LineMark(x: PlottableValue<Double>.value("", 0), y: PlottableValue<Double>.value("", 0))
    }
}

/// https://developer.apple.com/documentation/charts/chartcontentbuilder
@available(iOS 16.0, macOS 13.0, *)
@resultBuilder public struct ChartContentBuilder {
    public static func buildBlock<Content: ChartContent>(_ content: Content) -> Content { content }
}

/// https://developer.apple.com/documentation/charts/chart
@available(iOS 16.0, macOS 13.0, *)
public struct Chart<Content: ChartContent>: View {
    nonisolated public init<Data: RandomAccessCollection>(_ data: Data, @ChartContentBuilder content: @escaping (Data.Element) -> Content)
    where Data.Element: Identifiable {}
    nonisolated public init<Data: RandomAccessCollection, ID: Hashable>(
        _ data: Data, id: KeyPath<Data.Element, ID>, @ChartContentBuilder content: @escaping (Data.Element) -> Content
    ) {}
    public var body: Never { fatalError() }
}
