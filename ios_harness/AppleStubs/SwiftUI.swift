@_exported import Foundation
@_exported import Observation
@_exported import UIKit

@MainActor @preconcurrency public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}

extension Never: View {
    public var body: Never { fatalError() }
}

// Foundation's, which Linux lacks.
extension URL {
    public static var documentsDirectory: URL { fatalError() }
}

extension View where Body == Never {
    public var body: Never { fatalError() }
}

public struct EmptyView: View {
    public typealias Body = Never
}

public struct Either<First: View, Second: View>: View {
    public typealias Body = Never
}

public struct Several: View {
    public typealias Body = Never
}

extension Optional: View where Wrapped: View {
    public typealias Body = Never
    public var body: Never { fatalError() }
}

@resultBuilder public struct ViewBuilder {
    public static func buildBlock() -> EmptyView { fatalError() }
    public static func buildBlock<Content: View>(_ content: Content) -> Content { content }
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> Several { fatalError() }
    public static func buildExpression<Content: View>(_ content: Content) -> Content { content }
    public static func buildIf<Content: View>(_ content: Content?) -> Content? { content }
    public static func buildEither<First: View, Second: View>(first: First) -> Either<First, Second> { fatalError() }
    public static func buildEither<First: View, Second: View>(second: Second) -> Either<First, Second> { fatalError() }
}

@propertyWrapper @dynamicMemberLookup public struct Binding<Value> {
    public init(get: @escaping () -> Value, set: @escaping (Value) -> Void) {}
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set {}
    }
    public var projectedValue: Binding<Value> { self }
    public subscript<Subject>(dynamicMember keyPath: WritableKeyPath<Value, Subject>) -> Binding<Subject> { fatalError() }
}

@propertyWrapper @dynamicMemberLookup public struct Bindable<Value> {
    public var wrappedValue: Value
    public init(wrappedValue: Value) where Value: Observable { self.wrappedValue = wrappedValue }
    public var projectedValue: Bindable<Value> { self }
    public subscript<Subject>(dynamicMember keyPath: ReferenceWritableKeyPath<Value, Subject>) -> Binding<Subject> { fatalError() }
}

@propertyWrapper public struct State<Value> {
    public init(wrappedValue: Value) {}
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set {}
    }
    public var projectedValue: Binding<Value> { fatalError() }
}

@MainActor @preconcurrency public protocol Scene {}

@MainActor @preconcurrency public protocol App {
    associatedtype Body: Scene
    var body: Body { get }
    init()
}

extension App {
    public static func main() {}
}

public struct WindowGroup<Content: View>: Scene {
    public init(@ViewBuilder content: () -> Content) {}
}

public struct Text: View {
    public typealias Body = Never
    public init(_ content: String) {}
}

public struct Image: View {
    public typealias Body = Never
    public enum Interpolation {
        case none, low, medium, high
    }
    public init(uiImage: UIImage) {}
    public func resizable() -> Image { self }
    public func interpolation(_ interpolation: Interpolation) -> Image { self }
}

public struct Section<Content: View>: View {
    public typealias Body = Never
    public init(@ViewBuilder content: () -> Content) {}
    public init(_ title: String, @ViewBuilder content: () -> Content) {}
}

public struct List<Content: View>: View {
    public typealias Body = Never
    public init(@ViewBuilder content: () -> Content) {}
}

public struct HStack<Content: View>: View {
    public typealias Body = Never
    public init(@ViewBuilder content: () -> Content) {}
}

public struct NavigationStack<Root: View>: View {
    public typealias Body = Never
    public init(@ViewBuilder root: () -> Root) {}
}

public struct ForEach<Data: RandomAccessCollection, ID: Hashable, Content: View>: View {
    public typealias Body = Never
    public init(_ data: Data, id: KeyPath<Data.Element, ID>, @ViewBuilder content: @escaping (Data.Element) -> Content) {}
}

public struct Picker<Selection: Hashable, Content: View>: View {
    public typealias Body = Never
    public init(_ title: String, selection: Binding<Selection>, @ViewBuilder content: () -> Content) {}
}

public struct Button: View {
    public typealias Body = Never
    public init(_ title: String, action: @escaping @MainActor () -> Void) {}
}

public struct LabeledContent: View {
    public typealias Body = Never
    public init(_ title: String, value: String) {}
}

public struct ShareLink: View {
    public typealias Body = Never
    public init(_ title: String, item: URL) {}
}

public struct Color: Sendable {
    public static let red = Color()
}

extension View {
    public func navigationTitle(_ title: String) -> some View { self }
    public func refreshable(action: @escaping @Sendable () async -> Void) -> some View { self }
    public func onAppear(perform action: (() -> Void)? = nil) -> some View { self }
    public func task(_ action: @escaping @isolated(any) @Sendable () async -> Void) -> some View { self }
    public func tag<Tag: Hashable>(_ tag: Tag) -> some View { self }
    public func disabled(_ disabled: Bool) -> some View { self }
    public func foregroundStyle(_ style: Color) -> some View { self }
    public func frame(height: Double? = nil) -> some View { self }
    public func scaledToFit() -> some View { self }
}
