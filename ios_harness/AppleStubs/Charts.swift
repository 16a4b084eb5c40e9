import SwiftUI

public struct PlottableValue<Value> {
    public static func value(_ label: String, _ value: Value) -> PlottableValue<Value> { fatalError() }
}

public protocol ChartContent {}

public enum InterpolationMethod {
    case linear, stepEnd
}

public struct LineMark: ChartContent {
    public init<X, Y>(x: PlottableValue<X>, y: PlottableValue<Y>) { fatalError() }
}

extension ChartContent {
    public func interpolationMethod(_ method: InterpolationMethod) -> some ChartContent { self }
}

@MainActor public struct Chart: View {
    public init<Data: RandomAccessCollection, Content: ChartContent>(_ data: Data, content: (Data.Element) -> Content)
    where Data.Element: Identifiable { fatalError() }
    public init<Data: RandomAccessCollection, ID: Hashable, Content: ChartContent>(
        _ data: Data, id: KeyPath<Data.Element, ID>, content: (Data.Element) -> Content
    ) { fatalError() }
}
