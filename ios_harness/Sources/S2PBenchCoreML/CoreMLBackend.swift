#if canImport(CoreML)
@preconcurrency import CoreML
import Foundation
import S2PBench

/// Builds the components of a Core ML bundle.
public enum CoreMLBackend {
    /// Compute units of each component unless the options say otherwise: the Neural Engine for the integer U-Net. The
    /// decoder stays on the GPU, where a float32 program keeps its precision; the text encoder runs once per text.
    private static let defaultUnits = [
        "text_encoder": "cpuAndNeuralEngine", "unet": "cpuAndNeuralEngine", "vae_decoder": "cpuAndGPU",
    ]

    /// Nothing is compiled or loaded yet. A measurement compiles anew, so that its load times mean the same on every run;
    /// drawing takes the compiled copy of an earlier run.
    ///
    /// - Throws: `backend` when the bundle is for another target; `usage` for Apple's layout; `noComponent`; `outside`.
    public static func components(of bundle: ModelBundle, options: RunOptions) async throws -> ComponentSet {
        guard bundle.manifest.target == .coreml else {
            throw BenchError.backend(component: bundle.manifest.name, reason: "the bundle is for \(bundle.manifest.target.rawValue)")
        }
        try bundle.requireStepInput()
        let cache = try CompiledModelCache()
        let recompile = options.command == .run
        func program(_ name: String, as part: String) throws -> CoreMLProgram {
            let (spec, url) = try bundle.component(name)
            let units = options.units(for: part) ?? defaultUnits[part] ?? "all"
            return CoreMLProgram(
                name: name, spec: spec, package: url, units: units, cache: cache, key: bundle.contentKey(of: spec),
                recompile: recompile
            )
        }
        let (text, decoder) = (
            try program("text_encoder", as: "text_encoder"), try program("vae_decoder", as: "vae_decoder")
        )
        let unet = try bundle.manifest.unetPrograms.map { try program($0, as: "unet") }
        let parts = unet.map { ProgramUNet.Part(spec: $0.spec, program: $0) }
        return ComponentSet(
            textEncoder: CoreMLTextEncoder(program: text), unet: ProgramUNet(parts: parts, policy: options.chunks),
            decoder: CoreMLDecoder(program: decoder)
        ) {
            var placements: [String] = []
            for program in unet {
                let placement = await program.describePlacement()
                placements.append(unet.count == 1 ? placement : "\(program.name): \(placement)")
            }
            return [
                text.name: await text.describePlacement(), "unet": placements.joined(separator: "; "),
                decoder.name: await decoder.describePlacement(),
            ]
        }
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

struct CoreMLDecoder: ImageDecoding {
    let program: CoreMLProgram

    func load() async throws { try await program.load() }
    func unload() async { await program.unload() }

    func decode(_ latents: Tensor) async throws -> Tensor {
        try await program.predict(["latents": .floats(latents)], output: "image")
    }
}
#endif
