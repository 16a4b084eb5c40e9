#if canImport(CoreML)
@preconcurrency import CoreML
import Foundation

/// Builds the components of a Core ML bundle.
package enum CoreMLBackend {
    /// What manifests call the programs that Core ML runs.
    package static let target = "coreml"

    /// What programs are loaded for where neither the options nor the manifest choose: the Neural Engine, and the GPU for the VAE's,
    /// which may be float32 programs. The time table of a prompt (SDXL) is always float32, which the Neural Engine lacks.
    private static let choices: [String: ComputeUnit] = ["time_table": .all, "vae_decoder": .gpu, "vae_encoder": .gpu]

    /// Nothing is compiled or loaded yet. What an earlier launch has compiled is taken.
    ///
    /// - Throws: `wrongTarget`; `usage` for Apple's layout; `noComponent`; `outside`.
    package static func components(of bundle: ModelBundle, options: EngineOptions) async throws -> ComponentSet {
        try bundle.requireTarget(target)
        try bundle.requireStepInput()
        let cache = try CompiledModelCache.standard()
        return try ComponentSet(of: bundle, chunks: options.chunks) { source in
            let unit = options.computeUnit(for: source.part, source.spec, choice: choices[source.part] ?? .neuralEngine)
            return CoreMLProgram(source, unit: unit, cache: cache, key: bundle.contentKey(of: source.spec))
        } describe: { programs, placement in
            await describe(programs, placement: placement)
        }
    }

    private static func describe(_ programs: BundlePrograms<CoreMLProgram>, placement: Bool) async -> EngineDescription {
        var description = EngineDescription(backend: [:])
        for program in programs.all {
            let operators = placement ? await program.placement() : []
            description.computeUnits[program.name] = program.unit
            description.placement += operators
            let words = [program.unit.rawValue, operatorShares(operators)].compactMap { $0 }
            description.add(words.joined(separator: "; "), of: program, among: programs)
        }
        return description
    }
}
#endif
