#if canImport(CoreML)
@preconcurrency import CoreML
import CoreVideo
import Foundation
import os

/// One program: compiled, loaded and called with arrays that are made once and used again.
///
/// `@unchecked Sendable`: its state is touched by one call at a time, which `PipelineComponent` asks of its users.
final class CoreMLProgram: NamedProgram, @unchecked Sendable {
    /// What exists only while the program is loaded.
    private struct Loaded {
        let model: MLModel
        let compiled: URL
        let inputs: [String: MLMultiArray]
        let options: MLPredictionOptions
    }

    private static let signposter = OSSignposter(subsystem: "s2p-bench", category: .pointsOfInterest)

    let name: String
    let spec: ComponentSpec
    private let package: URL
    private let function: String?
    let unit: ComputeUnit
    private let cache: CompiledModelCache
    private let key: String
    private var loaded: Loaded?

    init(_ source: ProgramSource, unit: ComputeUnit, cache: CompiledModelCache, key: String) {
        name = source.name
        spec = source.spec
        package = source.url
        function = source.function
        self.unit = unit
        self.cache = cache
        self.key = key
    }

    func load() async throws {
        if loaded != nil { return }
        let interval = Self.signposter.beginInterval("load")
        defer { Self.signposter.endInterval("load", interval) }
        do {
            let compiled = try await cache.compiledModel(of: package, key: key) { try await MLModel.compileModel(at: $0) }
            let start = ContinuousClock.now
            let model = try await MLModel.load(contentsOf: compiled, configuration: try configuration())
            cache.note(firstLoad: (ContinuousClock.now - start).milliseconds, key: key, unit: unit, function: function)
            var inputs: [String: MLMultiArray] = [:]
            for input in spec.inputs { inputs[input.name] = try Self.makeArray(input) }
            let options = MLPredictionOptions()
            // Core ML writes its outputs into arrays of ours in place of new ones.
            options.outputBackings = try spec.outputs.reduce(into: [String: Any]()) { backings, output in
                backings[output.name] = try Self.makeBacking(output)
            }
            loaded = Loaded(model: model, compiled: compiled, inputs: inputs, options: options)
        } catch let error as S2PError {
            throw error
        } catch {
            throw S2PError.backend(component: name, reason: error.localizedDescription)
        }
    }

    func unload() async {
        loaded = nil
    }

    func firstLoad() async -> FirstLoad? { cache.firstLoad(key: key, unit: unit, function: function) }

    /// Runs the program once.
    ///
    /// - Throws: `shapeMismatch` when a value does not fill its input; `backend`.
    func run(_ values: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor] {
        try await predict(values, outputs: outputs).mapValues(Self.read)
    }

    /// Runs the program once. The outputs stay in the arrays that Core ML wrote them to.
    func hold(_ values: [String: ProgramInput], outputs: [String]) async throws -> [String: ProgramInput] {
        try await predict(values, outputs: outputs).mapValues { .held(HeldArray(array: $0)) }
    }

    private func predict(_ values: [String: ProgramInput], outputs: [String]) async throws -> [String: MLMultiArray] {
        try await load()
        guard let loaded else { throw S2PError.backend(component: name, reason: "not loaded") }
        var inputs = loaded.inputs
        for (input, value) in values {
            guard let array = inputs[input] else {
                throw S2PError.backend(component: name, reason: "the program has no input \(input)")
            }
            if case .held(let tensor) = value, let held = tensor as? HeldArray {
                inputs[input] = held.array
            } else {
                try Self.fill(array, with: value, name: input)
            }
        }
        let interval = Self.signposter.beginInterval("predict", "\(self.name)")
        defer { Self.signposter.endInterval("predict", interval) }
        do {
            let features = try MLDictionaryFeatureProvider(dictionary: inputs)
            let result = try await loaded.model.prediction(from: features, options: loaded.options)
            return try outputs.reduce(into: [String: MLMultiArray]()) { arrays, output in
                guard let array = result.featureValue(for: output)?.multiArrayValue else {
                    throw S2PError.backend(component: name, reason: "the program has no output \(output)")
                }
                arrays[output] = array
            }
        } catch let error as S2PError {
            throw error
        } catch {
            throw S2PError.backend(component: name, reason: error.localizedDescription)
        }
    }

    /// Where Core ML means to run the operators; empty where the system does not tell.
    func placement() async -> [PlacedOperator] {
        guard #available(iOS 17.4, macOS 14.4, *), let compiled = loaded?.compiled ?? cache.existing(key: key),
            let configuration = try? configuration()
        else { return [] }
        let own = function ?? ProgramSource.defaultFunction
        return await ComputePlan.operators(program: name, function: own, compiled: compiled, configuration: configuration)
    }

    /// - Throws: `backend` where the system knows no functions.
    private func configuration() throws(S2PError) -> MLModelConfiguration {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = MLComputeUnits(unit)
        if let function {
            guard #available(iOS 18.0, macOS 15.0, *) else {
                throw .backend(component: name, reason: "several picture sizes need iOS 18 or macOS 15")
            }
            configuration.functionName = function
        }
        return configuration
    }
}

/// An output where Core ML left it.
///
/// `@unchecked Sendable`: one program writes it, and others read it before that one runs again.
private struct HeldArray: EngineTensor, @unchecked Sendable {
    let array: MLMultiArray
    var shape: [Int] { array.shape.map(\.intValue) }
}

extension MLComputeUnits {
    /// Core ML's name of a choice.
    init(_ unit: ComputeUnit) {
        switch unit {
        case .neuralEngine: self = .cpuAndNeuralEngine
        case .gpu: self = .cpuAndGPU
        case .all: self = .all
        case .cpu: self = .cpuOnly
        }
    }
}

extension CoreMLProgram {
    private static func makeArray(_ spec: TensorSpec) throws -> MLMultiArray {
        let type: MLMultiArrayDataType =
            switch spec.dtype {
            case .float16: .float16
            case .float32: .float32
            case .int32: .int32
            case .int64: throw S2PError.backend(component: spec.name, reason: "Core ML has no int64 arrays")
            }
        return try MLMultiArray(shape: spec.shape.map { NSNumber(value: $0) }, dataType: type)
    }

    /// float16 outputs lie in a pixel buffer over an IOSurface, which the Neural Engine and the GPU write without a copy.
    private static func makeBacking(_ spec: TensorSpec) throws -> MLMultiArray {
        guard spec.dtype == .float16, let width = spec.shape.last, width > 0 else { return try makeArray(spec) }
        let rows = spec.shape.dropLast().reduce(1, *)
        let attributes = NSDictionary(dictionary: [kCVPixelBufferIOSurfacePropertiesKey as String: NSDictionary()]) as CFDictionary
        var buffer: CVPixelBuffer?
        let format = kCVPixelFormatType_OneComponent16Half
        guard CVPixelBufferCreate(kCFAllocatorDefault, width, rows, format, attributes, &buffer) == kCVReturnSuccess, let buffer
        else { return try makeArray(spec) }
        return MLMultiArray(pixelBuffer: buffer, shape: spec.shape.map { NSNumber(value: $0) })
    }

    private static func fill(_ array: MLMultiArray, with value: ProgramInput, name: String) throws {
        let shape = array.shape.map(\.intValue)
        switch value {
        case .floats(let tensor):
            _ = try tensor.checked(name, shape: shape)
            let element = try floatElement(array)
            try array.withUnsafeMutableBytes { buffer, strides in
                try StridedCopy.write(tensor.data, shape: shape, to: buffer, strides: strides, as: element)
            }
        case .held:
            throw S2PError.backend(component: name, reason: "it was given a tensor of another engine")
        case .integers(let values):
            guard array.dataType == .int32, array.count == values.count else {
                throw S2PError.shapeMismatch(what: name, found: [values.count], expected: shape)
            }
            array.withUnsafeMutableBytes { buffer, _ in
                for (index, value) in values.enumerated() {
                    buffer.storeBytes(of: value, toByteOffset: 4 * index, as: Int32.self)
                }
            }
        }
    }

    private static func read(_ array: MLMultiArray) throws -> Tensor {
        let shape = array.shape.map(\.intValue)
        let strides = array.strides.map(\.intValue)
        let element = try floatElement(array)
        let values = try array.withUnsafeBytes { try StridedCopy.read($0, shape: shape, strides: strides, as: element) }
        return Tensor(shape: shape, data: values)
    }

    private static func floatElement(_ array: MLMultiArray) throws -> StridedCopy.Element {
        switch array.dataType {
        case .float16: .float16
        case .float32: .float32
        default: throw S2PError.backend(component: "an array", reason: "its type is not float16 or float32")
        }
    }
}
#endif
