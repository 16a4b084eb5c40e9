extension BundleManifest {
    /// What comes from outside of the U-Net; every other input of a chunk is an output of an earlier one.
    static let unetInputs = ["sample", "step", "timestep", "encoder_hidden_states", "time_table"]

    /// Whether the U-Net is several programs.
    package var isChunked: Bool { !chunks.isEmpty }

    /// Components that are the U-Net, in the order in which they run.
    package var unetPrograms: [String] { isChunked ? chunks : ["unet"] }

    /// What options and reports call the components: `unet` stands for all of its programs.
    package var componentNames: [String] { Set(components.keys).subtracting(chunks).union(isChunked ? ["unet"] : []).sorted() }

    /// Every input of a chunk is there when its turn comes, with the same type and shape.
    func validateChunks() throws(ContractViolation) {
        guard isChunked else { return }
        try require(chunks.count >= 2 && Set(chunks).count == chunks.count, "chunks", "must be several, each once")
        let whole = components["unet"] == nil && sizes.count == 1
        try require(whole, "chunks", "such a bundle has no component unet and one picture size")
        var known: [String: TensorSpec] = [:]
        for name in chunks {
            guard let component = components[name] else { throw ContractViolation("chunks", "there is no component \(name)") }
            for input in component.inputs {
                let there = known[input.name] != nil || Self.unetInputs.contains(input.name)
                try require(there, "chunks", "\(name) needs \(input.name), which no program before it gives")
                try require((known[input.name] ?? input) == input, "chunks", "\(name) takes \(input.name) in another type or shape")
                known[input.name] = input
            }
            for output in component.outputs {
                try require(known[output.name] == nil, "chunks", "\(name) gives \(output.name) again")
                known[output.name] = output
            }
        }
        let last = chunks.last.flatMap { components[$0] }?.outputs.map(\.name)
        try require(last == ["noise_pred"], "chunks", "the last does not give noise_pred alone")
    }
}
