#if canImport(CoreAI)
import CoreAI
import Foundation
import S2PBench

/// Builds the components of a Core AI bundle.
@available(iOS 27.0, macOS 27.0, *)
public enum CoreAIBackend {
    /// What manifests call the programs that Core AI runs.
    public static let target = "coreai"

    /// Nothing is specialised or loaded yet.
    ///
    /// The unit that a program prefers is the manifest's own (`compute_unit`), unless the options name others.
    ///
    /// - Throws: `wrongTarget`; `usage` for the layout of another package; `noComponent`; `outside`.
    public static func components(of bundle: ModelBundle, options: RunOptions) async throws -> ComponentSet {
        try bundle.requireTarget(target)
        try bundle.requireStepInput()
        func program(_ name: String, as part: String) throws -> CoreAIProgram {
            let (spec, url) = try bundle.component(name)
            let asked = options.units(for: part).map(Self.unit)
            return CoreAIProgram(name: name, spec: spec, asset: url, unit: asked ?? spec.computeUnit?.rawValue ?? "all")
        }
        let text = try program("text_encoder", as: "text_encoder"), decoder = try program("vae_decoder", as: "vae_decoder")
        let unet = try bundle.manifest.unetPrograms.map { try program($0, as: "unet") }
        let table = try bundle.manifest.conditioning.map { _ in try program("time_table", as: "time_table") }
        return ComponentSet(
            textEncoder: CoreAITextEncoder(program: text), timeTable: table.map { CoreAITimeTable(program: $0) },
            unet: ProgramUNet(parts: unet.map { ProgramUNet.Part(spec: $0.spec, program: $0) }, policy: options.chunks),
            decoder: CoreAIDecoder(program: decoder)
        ) {
            var placements: [String] = []
            for part in unet { placements.append(unet.count == 1 ? await part.describe() : "\(part.name): \(await part.describe())") }
            var described = [
                text.name: await text.describe(), "unet": placements.joined(separator: "; "), decoder.name: await decoder.describe(),
            ]
            if let table { described[table.name] = await table.describe() }
            return described
        }
    }

    /// Core AI's unit for the words of the options.
    static func unit(_ units: String) -> String {
        switch units {
        case "cpuOnly": "cpu"
        case "cpuAndGPU": "gpu"
        case "cpuAndNeuralEngine": "neural-engine"
        default: "all"
        }
    }
}

@available(iOS 27.0, macOS 27.0, *)
struct CoreAITextEncoder: TextEncoding {
    let program: CoreAIProgram

    func load() async throws { try await program.load() }
    func unload() async { await program.unload() }

    func encode(_ tokenIDs: [Int32]) async throws -> Tensor {
        try await program.predict(["input_ids": .integers(tokenIDs)], output: "last_hidden_state")
    }

    func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
        let inputs: [String: ProgramInput] = ["input_ids": .integers(tokenIDs), "second_input_ids": .integers(second)]
        let outputs = try await program.run(inputs, outputs: ["hidden_states", "pooled_text"])
        guard let hidden = outputs["hidden_states"], let pooled = outputs["pooled_text"] else {
            throw BenchError.backend(component: program.name, reason: "it gives no pooled text")
        }
        return (hidden, pooled)
    }
}

@available(iOS 27.0, macOS 27.0, *)
struct CoreAITimeTable: TimeTabling {
    let program: CoreAIProgram

    func load() async throws { try await program.load() }
    func unload() async { await program.unload() }

    func timeTable(pooled: Tensor, timeIDs: Tensor) async throws -> Tensor {
        try await program.predict(["pooled_text": .floats(pooled), "time_ids": .floats(timeIDs)], output: "time_table")
    }
}

@available(iOS 27.0, macOS 27.0, *)
struct CoreAIDecoder: ImageDecoding {
    let program: CoreAIProgram

    func load() async throws { try await program.load() }
    func unload() async { await program.unload() }

    func decode(_ latents: Tensor) async throws -> Tensor {
        try await program.predict(["latents": .floats(latents)], output: "image")
    }
}
#endif
