/// Which programs of a U-Net in several are in memory during the loop.
public enum ChunkPolicy: String, Sendable, CaseIterable {
    /// All, loaded once.
    case resident
    /// One at a time, loaded for every call and released: slower, and no more than the largest is in memory.
    case released
}

/// What a program takes.
public enum ProgramInput: Equatable, Sendable {
    case floats(Tensor)
    case integers([Int32])
}

/// A program whose inputs and outputs go by their names in the manifest.
public protocol NamedProgram: PipelineComponent {
    /// In the manifest.
    var name: String { get }
    var spec: ComponentSpec { get }

    /// Runs once.
    ///
    /// - Returns: the outputs by name.
    func run(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor]
}

/// A U-Net of one program or several, which hand tensors on by name.
public struct ProgramUNet: Denoising {
    private let programs: [any NamedProgram]
    private let policy: ChunkPolicy
    /// Index of the last program that takes a tensor.
    private let lastUse: [String: Int]

    public init(programs: [any NamedProgram], policy: ChunkPolicy) {
        self.programs = programs
        self.policy = policy
        var lastUse: [String: Int] = [:]
        for (index, program) in programs.enumerated() {
            for input in program.spec.inputs { lastUse[input.name] = index }
        }
        self.lastUse = lastUse
    }

    /// Loads all programs; those that are to be released one after the other, so that a damaged one is found.
    public func load() async throws {
        for program in programs {
            try await program.load()
            if policy == .released { await program.unload() }
        }
    }

    public func unload() async {
        for program in programs { await program.unload() }
    }

    public func predict(sample: Tensor, step: Int, embeddings: Tensor, timeTable: Tensor?) async throws -> Tensor {
        var known: [String: ProgramInput] = [
            "sample": .floats(sample), "step": .integers([Int32(truncatingIfNeeded: step)]),
            "encoder_hidden_states": .floats(embeddings),
        ]
        if let timeTable { known["time_table"] = .floats(timeTable) }
        for (index, program) in programs.enumerated() {
            var inputs: [String: ProgramInput] = [:]
            for input in program.spec.inputs { inputs[input.name] = known[input.name] }
            known = known.filter { lastUse[$0.key, default: 0] > index }
            let results = try await program.run(inputs, outputs: program.spec.outputs.map(\.name))
            if policy == .released { await program.unload() }
            for output in program.spec.outputs {
                guard let tensor = results[output.name] else {
                    throw BenchError.backend(component: "unet", reason: "a program has no output \(output.name)")
                }
                known[output.name] = .floats(try tensor.checked(output.name, shape: output.shape))
            }
        }
        guard case .floats(let output)? = known["noise_pred"] else {
            throw BenchError.backend(component: "unet", reason: "no program gives noise_pred")
        }
        return output
    }
}
