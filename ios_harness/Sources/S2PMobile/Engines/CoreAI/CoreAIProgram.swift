#if canImport(CoreAI)
import CoreAI
import Foundation

/// One program: specialised for this device, loaded, and called with arrays of its own precision.
///
/// An actor, because the framework's calls are asynchronous and its arrays are made anew for each.
@available(iOS 27.0, macOS 27.0, *)
actor CoreAIProgram: NamedProgram {
    /// What loading took, in seconds. Specialisation happens once a device and system; afterwards it is a look into Apple's cache.
    struct Times: Equatable, Sendable {
        var specialization: Double
        var loading: Double
        var wasCached: Bool
    }

    nonisolated let name: String
    nonisolated let spec: ComponentSpec
    private let asset: URL
    private let functionName: String
    private let options: SpecializationOptions
    nonisolated let unit: ComputeUnit
    private var function: InferenceFunction?
    private(set) var times: Times?

    init(_ source: ProgramSource, unit: ComputeUnit) {
        name = source.name
        spec = source.spec
        asset = source.url
        functionName = source.function ?? ProgramSource.defaultFunction
        self.unit = unit
        options = Self.specialization(for: unit)
    }

    static func specialization(for unit: ComputeUnit) -> SpecializationOptions {
        switch unit {
        case .neuralEngine: SpecializationOptions(preferredComputeUnitKind: .neuralEngine)
        case .gpu: SpecializationOptions(preferredComputeUnitKind: .gpu)
        case .cpu: .cpuOnly
        case .all: .default
        }
    }

    func load() async throws {
        if function != nil { return }
        do {
            let cached = try AIModelCache.default.model(for: asset, options: options) != nil
            let start = ContinuousClock.now
            let model = try await AIModel(contentsOf: asset, options: options)
            let specialized = ContinuousClock.now
            guard let loaded = try model.loadFunction(named: functionName) else {
                throw S2PError.backend(component: name, reason: "it has no function \(functionName)")
            }
            function = loaded
            // Of the first load: later ones come from Apple's cache, whatever the first was.
            times = times ?? Times(
                specialization: (specialized - start).milliseconds / 1000, loading: (ContinuousClock.now - specialized).milliseconds / 1000, wasCached: cached
            )
        } catch let error as S2PError {
            throw error
        } catch {
            throw S2PError.backend(component: name, reason: error.localizedDescription)
        }
    }

    func unload() async {
        function = nil
    }

    /// Of this launch, where it was the one that specialised: the framework keeps no record of an earlier one.
    func firstLoad() async -> FirstLoad? {
        guard let times, !times.wasCached else { return nil }
        return FirstLoad(specialise: 1000 * times.specialization, first: 1000 * times.loading)
    }

    /// Runs the program once.
    ///
    /// - Throws: `shapeMismatch` when a value does not fill its input; `backend`.
    func run(_ values: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor] {
        var tensors: [String: Tensor] = [:]
        for (output, array) in try await predict(values, outputs: outputs) {
            guard let port = spec.outputs.first(where: { $0.name == output }) else {
                throw S2PError.backend(component: name, reason: "the program has no output \(output)")
            }
            tensors[output] = try Self.tensor(of: array, shape: port.shape, name: name)
        }
        return tensors
    }

    /// Runs the program once. The outputs stay the framework's arrays.
    func hold(_ values: [String: ProgramInput], outputs: [String]) async throws -> [String: ProgramInput] {
        var held: [String: ProgramInput] = [:]
        for (output, array) in try await predict(values, outputs: outputs) {
            guard let port = spec.outputs.first(where: { $0.name == output }) else {
                throw S2PError.backend(component: name, reason: "the program has no output \(output)")
            }
            held[output] = .held(HeldNDArray(array: array, shape: port.shape))
        }
        return held
    }

    private func predict(_ values: [String: ProgramInput], outputs: [String]) async throws -> [String: NDArray] {
        try await load()
        guard let function else { throw S2PError.backend(component: name, reason: "not loaded") }
        var arrays: [String: NDArray] = [:]
        for input in spec.inputs {
            guard let value = values[input.name] else {
                throw S2PError.backend(component: name, reason: "nothing was given for its input \(input.name)")
            }
            arrays[input.name] = try Self.array(of: value, for: input)
        }
        do {
            var results = try await function.run(inputs: arrays)
            var found: [String: NDArray] = [:]
            for output in outputs {
                guard let array = results.remove(output)?.ndArray else {
                    throw S2PError.backend(component: name, reason: "the program has no output \(output)")
                }
                found[output] = array
            }
            return found
        } catch let error as S2PError {
            throw error
        } catch {
            throw S2PError.backend(component: name, reason: error.localizedDescription)
        }
    }

    /// The preferred unit, and what specialising and loading took apart from each other.
    func describe() -> String {
        guard let times else { return "Core AI, prefers \(unit.rawValue)" }
        let specialization = String(format: "%.2f s", times.specialization), loading = String(format: "%.2f s", times.loading)
        let how = times.wasCached ? "from Apple's cache" : "specialised"
        return "Core AI, prefers \(unit.rawValue); \(how) in \(specialization), function loaded in \(loading)"
    }
}

/// An output as the framework gave it.
@available(iOS 27.0, macOS 27.0, *)
private struct HeldNDArray: EngineTensor {
    let array: NDArray
    let shape: [Int]
}

@available(iOS 27.0, macOS 27.0, *)
extension CoreAIProgram {
    /// An array of the port's own type, in C order.
    private static func array(of value: ProgramInput, for port: TensorSpec) throws -> NDArray {
        switch value {
        case .held(let tensor):
            guard let held = tensor as? HeldNDArray else {
                throw S2PError.backend(component: port.name, reason: "it was given a tensor of another engine")
            }
            return held.array
        case .integers(let numbers):
            guard port.dtype == .int32, numbers.count == port.shape.reduce(1, *) else {
                throw S2PError.shapeMismatch(what: port.name, found: [numbers.count], expected: port.shape)
            }
            return NDArray(scalars: numbers, shape: port.shape)
        case .floats(let tensor):
            let data = try tensor.checked(port.name, shape: port.shape).data
            switch port.dtype {
            case .float32: return NDArray(scalars: data, shape: port.shape)
            #if !((os(macOS) || targetEnvironment(macCatalyst)) && arch(x86_64))
            case .float16: return NDArray(scalars: data.map { Float16($0) }, shape: port.shape)
            #endif
            default: throw S2PError.backend(component: port.name, reason: "its type is not float16 or float32")
            }
        }
    }

    private static func tensor(of array: NDArray, shape: [Int], name: String) throws -> Tensor {
        let values: [Float]
        switch array.scalarType {
        case .float32: values = read(array, as: Float.self) { $0 }
        #if !((os(macOS) || targetEnvironment(macCatalyst)) && arch(x86_64))
        case .float16: values = read(array, as: Float16.self) { Float($0) }
        #endif
        default: throw S2PError.backend(component: name, reason: "an output is not float16 or float32")
        }
        guard values.count == shape.reduce(1, *) else {
            throw S2PError.shapeMismatch(what: name, found: [values.count], expected: shape)
        }
        return Tensor(shape: shape, data: values)
    }

    /// All numbers in C order, whatever strides the framework chose.
    private static func read<Element: BitwiseCopyable>(
        _ array: NDArray, as element: Element.Type, _ convert: (Element) -> Float
    ) -> [Float] {
        var values: [Float] = []
        array.view(as: element).withUnsafePointer { pointer, shape, strides in
            let sizes = (0..<shape.count).map { shape[$0] }, steps = (0..<strides.count).map { strides[$0] }
            values.reserveCapacity(sizes.reduce(1, *))
            var place = [Int](repeating: 0, count: sizes.count)
            for _ in 0..<sizes.reduce(1, *) {
                values.append(convert(pointer[zip(place, steps).reduce(0) { $0 + $1.0 * $1.1 }]))
                for axis in sizes.indices.reversed() {
                    place[axis] += 1
                    if place[axis] < sizes[axis] { break }
                    place[axis] = 0
                }
            }
        }
        return values
    }
}
#endif
