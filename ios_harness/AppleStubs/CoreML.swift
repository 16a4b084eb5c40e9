// Models, arrays, and the plan of where operators run.
import CoreVideo
import Foundation

/// https://developer.apple.com/documentation/coreml/mlcomputeunits
public enum MLComputeUnits: Int, Sendable {
    case cpuOnly, cpuAndGPU, all
    @available(macOS 13.0, iOS 16.0, *)
    case cpuAndNeuralEngine
}

/// https://developer.apple.com/documentation/coreml/mlmodelconfiguration
open class MLModelConfiguration: NSObject {
    public override init() {}
    open var computeUnits: MLComputeUnits = .all
    /// https://developer.apple.com/documentation/coreml/mlmodelconfiguration/functionname
    @available(macOS 15.0, iOS 18.0, *)
    open var functionName: String? { get { nil } set {} }
}

/// https://developer.apple.com/documentation/coreml/mlmultiarraydatatype
public enum MLMultiArrayDataType: Int, Sendable {
    case double, float32, int32
    @available(macOS 12.0, iOS 16.0, *)
    case float16
}

/// https://developer.apple.com/documentation/coreml/mlmultiarray
open class MLMultiArray: NSObject {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws { fatalError() }
    @available(macOS 12.0, iOS 15.0, *)
    public init(pixelBuffer: CVPixelBuffer, shape: [NSNumber]) { fatalError() }
    open var dataType: MLMultiArrayDataType { fatalError() }
    open var shape: [NSNumber] { fatalError() }
    open var strides: [NSNumber] { fatalError() }
    open var count: Int { fatalError() }
    @available(macOS 12.3, iOS 15.4, *)
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { fatalError() }
    @available(macOS 12.3, iOS 15.4, *)
    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, _ strides: [Int]) throws -> R) rethrows -> R { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlfeaturevalue
open class MLFeatureValue: NSObject {
    open var multiArrayValue: MLMultiArray? { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlfeatureprovider
public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

/// https://developer.apple.com/documentation/coreml/mldictionaryfeatureprovider
open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    public init(dictionary: [String: Any]) throws { fatalError() }
    open var featureNames: Set<String> { fatalError() }
    open func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlpredictionoptions
open class MLPredictionOptions: NSObject {
    public override init() {}
    @available(macOS 13.0, iOS 16.0, *)
    open var outputBackings: [String: Any] { get { [:] } set {} }
}

/// https://developer.apple.com/documentation/coreml/mlmodel
open class MLModel: NSObject {
    @available(macOS 13.0, iOS 16.0, *)
    public class func compileModel(at modelURL: URL) async throws -> URL { fatalError() }
    @available(macOS 12.0, iOS 15.0, *)
    public class func load(contentsOf url: URL, configuration: MLModelConfiguration = MLModelConfiguration()) async throws -> MLModel {
        fatalError()
    }
    @available(macOS 14.0, iOS 17.0, *)
    open func prediction(
        from input: any MLFeatureProvider, options: MLPredictionOptions = MLPredictionOptions()
    ) async throws -> any MLFeatureProvider { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlcpucomputedevice
public final class MLCPUComputeDevice: Sendable {}
/// https://developer.apple.com/documentation/coreml/mlgpucomputedevice
public final class MLGPUComputeDevice: Sendable {}
/// https://developer.apple.com/documentation/coreml/mlneuralenginecomputedevice
public final class MLNeuralEngineComputeDevice: Sendable {}

/// https://developer.apple.com/documentation/coreml/mlcomputedevice
@available(macOS 14.0, iOS 17.0, *)
public enum MLComputeDevice: Sendable {
    case cpu(MLCPUComputeDevice)
    case gpu(MLGPUComputeDevice)
    case neuralEngine(MLNeuralEngineComputeDevice)
}

/// https://developer.apple.com/documentation/coreml/mlmodelstructure-swift.enum
@available(macOS 14.4, iOS 17.4, *)
public enum MLModelStructure {
    case neuralNetwork(NeuralNetwork)
    case program(Program)
    case pipeline(Pipeline)
    case unsupported

    public struct NeuralNetwork {}
    public struct Pipeline {}

    public struct Program {
        public let functions: [String: Function]
        public struct Function { public let block: Block }
        public struct Block { public let operations: [Operation] }
        public struct Operation {
            public let operatorName: String
            public let outputs: [NamedValueType]
            public let blocks: [Block]
        }
        public struct NamedValueType { public let name: String }
    }
}

/// https://developer.apple.com/documentation/coreml/mlcomputeplan-85vdw
@available(macOS 14.4, iOS 17.4, *)
public final class MLComputePlan {
    public struct DeviceUsage {
        public let supported: [MLComputeDevice]
        public let preferred: MLComputeDevice
    }
    public struct Cost { public let weight: Double }
    public class func load(contentsOf url: URL, configuration: MLModelConfiguration) async throws -> MLComputePlan { fatalError() }
    public var modelStructure: MLModelStructure { fatalError() }
    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? { fatalError() }
    public func estimatedCost(of operation: MLModelStructure.Program.Operation) -> Cost? { fatalError() }
}
