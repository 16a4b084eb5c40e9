/// Which programs of a U-Net in several are in memory during the loop.
package enum ChunkPolicy: String, Sendable, CaseIterable {
    /// All, loaded once.
    case resident
    /// One at a time, loaded for every call and released: slower, and no more than the largest is in memory.
    case released
}

/// A tensor that stays where an engine put it, in the engine's own type: for another program of the same engine.
package protocol EngineTensor: Sendable {
    var shape: [Int] { get }
}

/// What a program takes.
package enum ProgramInput: Sendable {
    case floats(Tensor)
    case integers([Int32])
    case held(any EngineTensor)

    /// nil: of integers, which have no shape of their own.
    var shape: [Int]? {
        switch self {
        case .floats(let tensor): tensor.shape
        case .held(let tensor): tensor.shape
        case .integers: nil
        }
    }
}

/// A program whose inputs and outputs go by their names in the manifest.
package protocol NamedProgram: PipelineComponent {
    /// In the manifest.
    var name: String { get }
    var spec: ComponentSpec { get }

    /// Runs once.
    ///
    /// - Returns: the outputs by name.
    func run(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor]

    /// Runs once for outputs that only other programs of the same engine take: they are not converted.
    ///
    /// - Returns: the outputs by name. They are good until the program runs again.
    func hold(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: ProgramInput]
}

extension NamedProgram {
    /// For engines that hold nothing.
    package func hold(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: ProgramInput] {
        try await run(inputs, outputs: outputs).mapValues { .floats($0) }
    }
}

/// A U-Net of one program or several, which hand tensors on by name.
package struct ProgramUNet: Denoising {
    private let programs: [any NamedProgram]
    private let policy: ChunkPolicy
    /// Index of the last program that takes a tensor.
    private let lastUse: [String: Int]

    package init(programs: [any NamedProgram], policy: ChunkPolicy) {
        self.programs = programs
        self.policy = policy
        var lastUse: [String: Int] = [:]
        for (index, program) in programs.enumerated() {
            for input in program.spec.inputs { lastUse[input.name] = index }
        }
        self.lastUse = lastUse
    }

    /// Loads all programs; those that are to be released one after the other, so that a damaged one is found.
    package func load() async throws {
        for program in programs {
            try await program.load()
            if policy == .released { await program.unload() }
        }
    }

    package func unload() async {
        for program in programs { await program.unload() }
    }

    package func firstLoad() async -> FirstLoad? {
        var parts: [FirstLoad] = []
        for program in programs {
            guard let part = await program.firstLoad() else { return nil }
            parts.append(part)
        }
        return FirstLoad(of: parts)
    }

    package func predict(sample: Tensor, step: Int, embeddings: Tensor, timeTable: Tensor?) async throws -> Tensor {
        var known: [String: ProgramInput] = [
            "sample": .floats(sample), "step": .integers([Int32(truncatingIfNeeded: step)]),
            "encoder_hidden_states": .floats(embeddings),
        ]
        if let timeTable { known["time_table"] = .floats(timeTable) }
        for (index, program) in programs.enumerated() {
            var inputs: [String: ProgramInput] = [:]
            for input in program.spec.inputs { inputs[input.name] = known[input.name] }
            known = known.filter { lastUse[$0.key, default: 0] > index }
            let names = program.spec.outputs.map(\.name)
            // What goes to another program stays in the engine's hands; what leaves the U-Net is numbers of ours.
            let results =
                index < programs.count - 1
                ? try await program.hold(inputs, outputs: names)
                : try await program.run(inputs, outputs: names).mapValues { .floats($0) }
            if policy == .released { await program.unload() }
            for output in program.spec.outputs {
                guard let tensor = results[output.name], let shape = tensor.shape else {
                    throw S2PError.backend(component: "unet", reason: "a program has no output \(output.name)")
                }
                guard shape == output.shape else {
                    throw S2PError.shapeMismatch(what: output.name, found: shape, expected: output.shape)
                }
                known[output.name] = tensor
            }
        }
        guard case .floats(let output)? = known["noise_pred"] else {
            throw S2PError.backend(component: "unet", reason: "no program gives noise_pred")
        }
        return output
    }
}
