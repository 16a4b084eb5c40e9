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
    /// The unit that a program prefers is the one of the options, else the manifest's own (`compute_unit`).
    ///
    /// - Throws: `wrongTarget`; `usage` for the layout of another package; `noComponent`; `outside`.
    public static func components(of bundle: ModelBundle, options: RunOptions) async throws -> ComponentSet {
        try bundle.requireTarget(target)
        try bundle.requireStepInput()
        func program(_ name: String, as part: String) throws -> CoreAIProgram {
            let (spec, url) = try bundle.component(name)
            return CoreAIProgram(name: name, spec: spec, asset: url, unit: options.computeUnit(for: part, spec, choice: .all))
        }
        let text = try program("text_encoder", as: "text_encoder"), decoder = try program("vae_decoder", as: "vae_decoder")
        let unet = try bundle.manifest.unetPrograms.map { try program($0, as: "unet") }
        let table = try bundle.manifest.conditioning.map { _ in try program("time_table", as: "time_table") }
        return ComponentSet(
            textEncoder: CoreAITextEncoder(program: text), timeTable: table.map { CoreAITimeTable(program: $0) },
            unet: ProgramUNet(parts: unet.map { ProgramUNet.Part(spec: $0.spec, program: $0) }, policy: options.chunks),
            decoder: CoreAIDecoder(program: decoder)
        ) { _ in
            await describe([text] + (table.map { [$0] } ?? []) + unet + [decoder], unet: unet.map(\.name))
        }
    }

    /// Programs of one U-Net have one text together, under `unet`. Core AI does not tell where operators run.
    private static func describe(_ programs: [CoreAIProgram], unet: [String]) async -> EngineDescription {
        var description = EngineDescription(backend: [:])
        for program in programs {
            let text = await program.describe()
            description.computeUnits[program.name] = program.unit
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
