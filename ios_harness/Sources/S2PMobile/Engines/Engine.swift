/// What runs the programs of bundles on this system, by the target that they were converted for.
package enum Engine {
    /// The components of a bundle. Nothing is compiled or loaded yet.
    ///
    /// - Throws: `wrongTarget` when no engine of this system runs the bundle's target, and what the engine throws.
    package static func components(of bundle: ModelBundle, options: EngineOptions) async throws -> ComponentSet {
        #if canImport(CoreAI)
        if #available(iOS 27.0, macOS 27.0, *), bundle.manifest.target == CoreAIBackend.target {
            return try await CoreAIBackend.components(of: bundle, options: options)
        }
        #endif
        #if canImport(CoreML)
        return try await CoreMLBackend.components(of: bundle, options: options)
        #else
        throw S2PError.wrongTarget(
            bundle: bundle.folder.lastPathComponent, target: bundle.manifest.target, runs: "nothing but replays of golden runs"
        )
        #endif
    }
}
