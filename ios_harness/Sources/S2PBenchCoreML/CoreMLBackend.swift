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
        return try ComponentSet(of: bundle, chunks: options.chunks) { name, part in
            let (spec, url) = try bundle.component(name)
            let unit = options.computeUnit(for: part, spec, choice: choices[part] ?? .neuralEngine)
            return CoreMLProgram(
                name: name, spec: spec, package: url, unit: unit, cache: cache, key: bundle.contentKey(of: spec),
                recompile: recompile
            )
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
            let words = [program.unit.rawValue, operatorCounts(operators).map { "operators: \($0)" }].compactMap { $0 }
            description.add(words.joined(separator: "; "), of: program, among: programs)
        }
        return description
    }
}
#endif
