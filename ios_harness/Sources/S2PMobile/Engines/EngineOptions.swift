/// What an engine is told of how to load the programs of a bundle.
package struct EngineOptions: Equatable, Sendable {
    /// Of every component, in the place of what the manifest says.
    package var unit: ComputeUnit?
    /// Of single components; these come first.
    package var units: [String: ComputeUnit]
    /// Of a U-Net in several programs.
    package var chunks: ChunkPolicy

    package init(unit: ComputeUnit? = nil, units: [String: ComputeUnit] = [:], chunks: ChunkPolicy = .resident) {
        self.unit = unit
        self.units = units
        self.chunks = chunks
    }

    /// What a program is loaded for: as the options say, else as the manifest says, else the engine's own choice.
    ///
    /// - Parameters:
    ///   - component: as options name it; programs of one U-Net are `unet` together.
    ///   - spec: the program's.
    ///   - choice: the engine's own.
    package func computeUnit(for component: String, _ spec: ComponentSpec, choice: ComputeUnit) -> ComputeUnit {
        units[component] ?? unit ?? spec.computeUnit ?? choice
    }
}
