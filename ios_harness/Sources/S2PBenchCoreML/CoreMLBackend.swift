#if canImport(CoreML)
@preconcurrency import CoreML
import Foundation
import S2PBench

/// Builds the components of a Core ML bundle.
public enum CoreMLBackend {
    /// What manifests call the programs that Core ML runs.
    public static let target = "coreml"

    /// What programs are loaded for where neither the options nor the manifest choose: the Neural Engine, and the GPU for the
    /// decoder, which may be a float32 program. The time table of a prompt (SDXL) is always float32, which the Neural Engine lacks.
    private static let choices: [String: ComputeUnit] = ["time_table": .all, "vae_decoder": .gpu]

    /// Nothing is compiled or loaded yet. A measurement compiles anew, so that its load times mean the same on every run;
    /// drawing takes the compiled copy of an earlier run.
    ///
    /// - Throws: `wrongTarget`; `usage` for Apple's layout; `noComponent`; `outside`.
    public static func components(of bundle: ModelBundle, options: RunOptions) async throws -> ComponentSet {
        try bundle.requireTarget(target)
        try bundle.requireStepInput()
        let cache = try CompiledModelCache()
        let recompile = options.command == .run
        func program(_ name: String, as part: String) throws -> CoreMLProgram {
            let (spec, url) = try bundle.component(name)
            let unit = options.computeUnit(for: part, spec, choice: choices[part] ?? .neuralEngine)
            return CoreMLProgram(
                name: name, spec: spec, package: url, unit: unit, cache: cache, key: bundle.contentKey(of: spec),
                recompile: recompile
            )
        }
        let (text, decoder) = (
            try program("text_encoder", as: "text_encoder"), try program("vae_decoder", as: "vae_decoder")
        )
        let unet = try bundle.manifest.unetPrograms.map { try program($0, as: "unet") }
        let parts = unet.map { ProgramUNet.Part(spec: $0.spec, program: $0) }
        let table = try bundle.manifest.conditioning.map { _ in try program("time_table", as: "time_table") }
        return ComponentSet(
            textEncoder: CoreMLTextEncoder(program: text), timeTable: table.map { CoreMLTimeTable(program: $0) },
            unet: ProgramUNet(parts: parts, policy: options.chunks), decoder: CoreMLDecoder(program: decoder)
        ) { placement in
            await describe([text] + (table.map { [$0] } ?? []) + unet + [decoder], unet: unet.map(\.name), placement: placement)
        }
    }

    /// Programs of one U-Net have one text together, under `unet`.
    private static func describe(_ programs: [CoreMLProgram], unet: [String], placement: Bool) async -> EngineDescription {
        var description = EngineDescription(backend: [:])
        for program in programs {
            let operators = placement ? await program.placement() : []
            description.computeUnits[program.name] = program.unit
            description.placement += operators
            let words = [program.unit.rawValue, operatorCounts(operators).map { "operators: \($0)" }].compactMap { $0 }
            let text = words.joined(separator: "; ")
            if unet.contains(program.name) {
                let own = unet.count == 1 ? text : "\(program.name): \(text)"
                description.backend["unet"] = [description.backend["unet"], own].compactMap { $0 }.joined(separator: "; ")
            } else {
                description.backend[program.name] = text
            }
        }
        return description
    }
}

struct CoreMLTextEncoder: TextEncoding {
    let program: CoreMLProgram

    func load() async throws { try await program.load() }
    func unload() async { await program.unload() }

    func encode(_ tokenIDs: [Int32]) async throws -> Tensor {
        try await program.predict(["input_ids": .integers(tokenIDs)], output: "last_hidden_state")
    }
}

extension CoreMLTextEncoder {
    func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
        let inputs: [String: ProgramInput] = ["input_ids": .integers(tokenIDs), "second_input_ids": .integers(second)]
        let outputs = try await program.run(inputs, outputs: ["hidden_states", "pooled_text"])
        guard let hidden = outputs["hidden_states"], let pooled = outputs["pooled_text"] else {
            throw BenchError.backend(component: program.name, reason: "it gives no pooled text")
        }
        return (hidden, pooled)
    }
}

struct CoreMLTimeTable: TimeTabling {
    let program: CoreMLProgram

    func load() async throws { try await program.load() }
    func unload() async { await program.unload() }

    func timeTable(pooled: Tensor, timeIDs: Tensor) async throws -> Tensor {
        try await program.predict(["pooled_text": .floats(pooled), "time_ids": .floats(timeIDs)], output: "time_table")
    }
}

struct CoreMLDecoder: ImageDecoding {
    let program: CoreMLProgram

    func load() async throws { try await program.load() }
    func unload() async { await program.unload() }

    func decode(_ latents: Tensor) async throws -> Tensor {
        try await program.predict(["latents": .floats(latents)], output: "image")
    }
}
#endif
