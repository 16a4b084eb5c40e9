#if canImport(CoreAI)
import CoreAI
import Foundation

/// Builds the components of a Core AI bundle.
@available(iOS 27.0, macOS 27.0, *)
package enum CoreAIBackend {
    /// What manifests call the programs that Core AI runs.
    package static let target = "coreai"

    /// Nothing is specialised or loaded yet.
    ///
    /// The unit that a program prefers is the one of the options, else the manifest's own (`compute_unit`).
    ///
    /// - Throws: `wrongTarget`; `usage` for the layout of another package; `noComponent`; `outside`.
    package static func components(of bundle: ModelBundle, options: EngineOptions) async throws -> ComponentSet {
        try bundle.requireTarget(target)
        try bundle.requireStepInput()
        return try ComponentSet(of: bundle, chunks: options.chunks) { source in
            CoreAIProgram(source, unit: options.computeUnit(for: source.part, source.spec, choice: .all))
        } describe: { programs, _ in
            await describe(programs)
        }
    }

    /// Core AI does not tell where operators run.
    private static func describe(_ programs: BundlePrograms<CoreAIProgram>) async -> EngineDescription {
        var description = EngineDescription(backend: [:])
        for program in programs.all {
            description.computeUnits[program.name] = program.unit
            description.add(await program.describe(), of: program, among: programs)
        }
        return description
    }
}
#endif
