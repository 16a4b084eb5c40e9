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
        func program(_ name: String) throws -> CoreMLProgram {
            let (spec, url) = try bundle.component(name)
            let units = options.units(for: name) ?? defaultUnits[name] ?? "all"
            return CoreMLProgram(
                name: name, spec: spec, package: url, units: units, cache: cache, key: bundle.contentKey(of: spec),
                recompile: recompile
            )
        }
        let (text, unet, decoder) = (try program("text_encoder"), try program("unet"), try program("vae_decoder"))
        return ComponentSet(
            textEncoder: CoreMLTextEncoder(program: text), unet: CoreMLUNet(program: unet), decoder: CoreMLDecoder(program: decoder)
        ) {
            var backend: [String: String] = [:]
            for program in [text, unet, decoder] { backend[program.name] = await program.describePlacement() }
            return backend
        }
    }
}

struct CoreMLTextEncoder: TextEncoding {
    let program: CoreMLProgram

    func load() async throws { try await program.load() }
    func unload() async { program.unload() }

    func encode(_ tokenIDs: [Int32]) async throws -> Tensor {
        try await program.predict(["input_ids": .integers(tokenIDs)], output: "last_hidden_state")
    }
}

struct CoreMLUNet: Denoising {
    let program: CoreMLProgram

    func load() async throws { try await program.load() }
    func unload() async { program.unload() }

    func predict(sample: Tensor, step: Int, embeddings: Tensor) async throws -> Tensor {
        let inputs: [String: CoreMLProgram.Value] = [
            "sample": .floats(sample), "step": .integers([Int32(truncatingIfNeeded: step)]),
            "encoder_hidden_states": .floats(embeddings),
        ]
        return try await program.predict(inputs, output: "noise_pred")
    }
}

struct CoreMLDecoder: ImageDecoding {
    let program: CoreMLProgram

    func load() async throws { try await program.load() }
    func unload() async { program.unload() }

    func decode(_ latents: Tensor) async throws -> Tensor {
        try await program.predict(["latents": .floats(latents)], output: "image")
    }
}
#endif
