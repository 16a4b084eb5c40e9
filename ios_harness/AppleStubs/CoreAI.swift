// The part of Apple's Core AI framework that the engine uses, without bodies, for type checks where the framework is not. Each signature
// is that of the page above it.

import Foundation

/// https://developer.apple.com/documentation/coreai/computeunitkind
@available(iOS 27.0, macOS 27.0, *)
public enum ComputeUnitKind: Hashable, Sendable { case cpu, gpu, neuralEngine }

/// https://developer.apple.com/documentation/coreai/specializationoptions
@available(iOS 27.0, macOS 27.0, *)
public struct SpecializationOptions: Sendable {
    /// https://developer.apple.com/documentation/coreai/specializationoptions/default
    public static let `default` = SpecializationOptions(preferredComputeUnitKind: .cpu)
    /// https://developer.apple.com/documentation/coreai/specializationoptions/cpuonly
    public static let cpuOnly = SpecializationOptions(preferredComputeUnitKind: .cpu)
    /// https://developer.apple.com/documentation/coreai/specializationoptions/init(preferredcomputeunitkind:)
    public init(preferredComputeUnitKind: ComputeUnitKind) {}
}

/// https://developer.apple.com/documentation/coreai/aimodelcache
@available(iOS 27.0, macOS 27.0, *)
public final class AIModelCache: Sendable {
    /// https://developer.apple.com/documentation/coreai/aimodelcache/default
    public static let `default` = AIModelCache()
    /// https://developer.apple.com/documentation/coreai/aimodelcache/model(for:options:)
    public func model(for modelURL: URL, options: SpecializationOptions = .default) throws -> AIModel? { fatalError() }
}

/// https://developer.apple.com/documentation/coreai/aimodel
@available(iOS 27.0, macOS 27.0, *)
public struct AIModel: Sendable {
    /// https://developer.apple.com/documentation/coreai/aimodel/init(contentsof:options:)
    public init(contentsOf modelURL: URL, options: SpecializationOptions = .default) async throws {}
    /// https://developer.apple.com/documentation/coreai/aimodel/loadfunction(named:)
    public func loadFunction(named functionName: String) throws -> InferenceFunction? { fatalError() }
}

/// https://developer.apple.com/documentation/coreai/inferencefunction
@available(iOS 27.0, macOS 27.0, *)
public struct InferenceFunction: Sendable {
    /// https://developer.apple.com/documentation/coreai/inferencefunction/mutableviews
    public struct MutableViews: ~Copyable { public init() {} }
    /// https://developer.apple.com/documentation/coreai/inferencefunction/outputs
    public struct Outputs {
        public mutating func remove(_ name: String) -> InferenceValue? { fatalError() }
    }
    /// https://developer.apple.com/documentation/coreai/inferencefunction/run(inputs:states:outputviews:)-mqfb
    public func run(
        inputs: [String: NDArray], states: consuming MutableViews = MutableViews(), outputViews: consuming MutableViews = MutableViews()
    ) async throws -> Outputs { fatalError() }
}

/// https://developer.apple.com/documentation/coreai/inferencevalue
@available(iOS 27.0, macOS 27.0, *)
public struct InferenceValue { public var ndArray: NDArray? { fatalError() } }

/// https://developer.apple.com/documentation/coreai/ndarray
@available(iOS 27.0, macOS 27.0, *)
public struct NDArray: Sendable {
    /// https://developer.apple.com/documentation/coreai/ndarray/scalartype-swift.enum
    public enum ScalarType: Sendable { case float16, float32, int32, int8 }
    /// https://developer.apple.com/documentation/coreai/ndarray/init(scalars:shape:)
    public init<Scalar: BitwiseCopyable>(scalars: [Scalar], shape: [Int]) {}
    /// https://developer.apple.com/documentation/coreai/ndarray/scalartype-swift.property
    public var scalarType: ScalarType { fatalError() }
    /// https://developer.apple.com/documentation/coreai/ndarray/view(as:)
    public func view<Element: BitwiseCopyable>(as type: Element.Type) -> View<Element> { fatalError() }

    /// https://developer.apple.com/documentation/coreai/ndarray/view
    public struct View<Element: BitwiseCopyable> {
        public func withUnsafePointer<R>(_ body: (UnsafePointer<Element>, [Int], [Int]) throws -> R) rethrows -> R { fatalError() }
    }
}
