/// One input or output of a component.
package struct TensorSpec: Codable, Equatable, Sendable {
    package enum ElementType: String, Codable, Sendable {
        case float16, float32, int32, int64
    }

    package let name: String
    package let dtype: ElementType
    package let shape: [Int]
}

/// One program of the bundle. `path` is a file (.pte) or a folder (.mlpackage) inside the bundle.
package struct ComponentSpec: Codable, Equatable, Sendable {
    package enum Precision: String, Codable, Sendable {
        case float16, float32
    }

    package let path: String
    package let precision: Precision
    package let inputs: [TensorSpec]
    package let outputs: [TensorSpec]
    package let backend: String
    /// What it was written for; absent: the engine's own choice.
    package let computeUnit: ComputeUnit?
    /// Chip to its own file, of a program that is compiled for each; absent: it runs on any.
    package let chips: [String: String]?

    enum CodingKeys: String, CodingKey {
        case path, precision, inputs, outputs, backend, chips
        case computeUnit = "compute_unit"
    }
}

/// Checksum of one file.
package struct FileEntry: Codable, Equatable, Sendable {
    package let sha256: String
    package let bytes: Int
}

/// How one layer of the U-Net is stored.
package struct LayerSummary: Codable, Equatable, Sendable {
    package enum Kind: String, Codable, Sendable {
        case conv, linear
    }

    package let name: String
    package let kind: Kind
    package let weightBits: Int
    /// nil: activations stay in float.
    @Nullable package var activationBits: Int?
    package let scheme: String
    package let weights: Int
    package let bytes: Int

    enum CodingKeys: String, CodingKey {
        case name, kind
        case weightBits = "weight_bits"
        case activationBits = "activation_bits"
        case scheme, weights, bytes
    }
}

/// Quantization of the U-Net, layer by layer.
package struct QuantizationSummary: Codable, Equatable, Sendable {
    package let method: String
    package let recipe: String
    package let averageWeightBits: Double
    package let unetBytes: Int
    package let unetDownloadBytes: Int
    package let unetFP32Bytes: Int
    package let layers: [LayerSummary]

    enum CodingKeys: String, CodingKey {
        case method, recipe
        case averageWeightBits = "average_weight_bits"
        case unetBytes = "unet_bytes"
        case unetDownloadBytes = "unet_download_bytes"
        case unetFP32Bytes = "unet_fp32_bytes"
        case layers
    }
}

/// A recorded run: `path` is a safetensors file with the tensors listed in docs/formats.md.
package struct GoldenRunSpec: Codable, Equatable, Sendable {
    package let id: String
    package let prompt: String
    package let seed: UInt64
    package let path: String
}

/// `manifest.json` of a bundle. The Python model `s2p_runtime.bundle.BundleManifest` is the schema.
package struct BundleManifest: Contract {
    package static let formatName = "s2p-bundle"
    package static let formatVersion = 1

    package let format: String
    package let version: Int
    package let name: String
    package let family: String
    /// What the programs are written for. Readers take any name; an engine refuses what it does not run.
    package let target: String
    package let producer: String
    package let checkpointSHA256: String
    package let components: [String: ComponentSpec]
    /// Components that are the U-Net together, in the order in which they run; empty where it is one program.
    package let chunks: [String]
    package let plan: SamplingPlan
    /// Where runs from a picture begin, one to each step of the plan; absent without the component `vae_encoder`.
    package let imageStarts: [ImageStart]?
    /// 1.0 or less: no classifier-free guidance, batch of one.
    package let guidance: Double
    package let latents: LatentSpec
    /// Sizes of pictures, that of `latents` first.
    package let sizes: [PictureSize]
    package let tokenizer: TokenizerSpec
    /// nil: one time table serves all prompts. Else it belongs to the prompt, and the bundle has a component `time_table`.
    @Nullable package var conditioning: Conditioning?
    package let quantization: QuantizationSummary
    package let golden: [GoldenRunSpec]
    /// Every file of the bundle but the manifest, by relative path.
    package let files: [String: FileEntry]

    /// Two with classifier-free guidance, [unconditional, conditional], else one.
    package var batch: Int { guidance > 1 ? 2 : 1 }

    enum CodingKeys: String, CodingKey {
        case format, version, name, family, target, producer
        case checkpointSHA256 = "checkpoint_sha256"
        case imageStarts = "image_starts"
        case components, chunks, plan, guidance, latents, sizes, tokenizer, conditioning, quantization, golden, files
    }

    package func validate() throws(ContractViolation) {
        try require(isTargetName(target), "target", "is no name of a target")
        try require(isSHA256(checkpointSHA256), "checkpoint_sha256", "is no SHA-256")
        try plan.validate()
        try latents.validate()
        try tokenizer.validate("tokenizer")
        try conditioning?.validate(length: tokenizer.maxLength)
        try validateQuantization()
        for (path, entry) in files.sorted(by: { $0.key < $1.key }) {
            try require(isSHA256(entry.sha256), "files.\(path).sha256", "is no SHA-256")
            try require(entry.bytes >= 0, "files.\(path).bytes", "must not be negative")
        }
        for (name, component) in components.sorted(by: { $0.key < $1.key }) {
            for port in component.inputs + component.outputs {
                let shaped = port.shape.allSatisfy { (0...Int(Int32.max)).contains($0) } && elementCount(port.shape) != nil
                try require(shaped, "components.\(name).\(port.name).shape", "is no shape of an array")
                for size in sizes {
                    let fits = elementCount(port.resized(to: size).shape) != nil
                    try require(fits, "components.\(name).\(port.name).shape", "is no shape of an array at \(size.title)")
                }
            }
            let folder = component.path + "/"
            let listed = files[component.path] != nil || files.keys.contains { $0.hasPrefix(folder) }
            try require(listed, "components.\(name)", "has no file \(component.path)")
            guard let chips = component.chips else { continue }
            try require(chips.values.contains(component.path), "components.\(name)", "chips: path is none of its files")
            for (chip, file) in chips {
                try require(files[file] != nil, "components.\(name)", "has no file \(file) for \(chip)")
            }
        }
        let named = Set(components.values.compactMap { $0.chips.map { Set($0.keys) } })
        try require(named.count <= 1, "components", "chips: two have programs for different chips")
        for run in golden {
            let plain = !run.id.isEmpty && run.id.utf8.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 45 }
            try require(plain, "golden", "id '\(run.id)' must be of a-z, 0-9 and -")
        }
        let words = ([tokenizer] + (conditioning.map { [$0.secondTokenizer] } ?? [])).flatMap { [$0.vocab, $0.merges] }
        for path in words + golden.map(\.path) {
            try require(files[path] != nil, "files", "file \(path) is not listed")
        }
        try validateSizes()
        try validateChunks()
        let goTogether = (conditioning != nil) == (components["time_table"] != nil)
        try require(goTogether, "conditioning", "goes with a component time_table")
        let pictured = (imageStarts != nil) == (components["vae_encoder"] != nil)
        try require(pictured, "image_starts", "goes with a component vae_encoder")
        if let imageStarts { try plan.validate(imageStarts) }
    }

    private func validateSizes() throws(ContractViolation) {
        let own = sizes.first.map { $0.latentWidth == latents.width && $0.latentHeight == latents.height && $0.check == nil }
        try require(own == true, "sizes", "the first is not that of the latents, which golden runs check")
        for (index, size) in sizes.enumerated() {
            let positive = [size.width, size.height].allSatisfy { $0 >= 1 }
            try require(positive, "sizes.\(index)", "must be at least 1")
            let most = LatentSpec.maximumDimension
            let inside = [size.latentWidth, size.latentHeight].allSatisfy { (1...most).contains($0) }
            try require(inside, "sizes.\(index)", "latents must be from 1 to \(most)")
            let small = elementCount(latents.resized(to: size).shape).map { $0 <= LatentSpec.maximumElements } ?? false
            try require(small, "sizes.\(index)", "latents are more than \(LatentSpec.maximumElements) numbers")
            try require(size.method.map(isIdentifier) ?? true, "sizes.\(index).method", "must be of letters, digits and _")
        }
        try require(Set(sizes.map { [$0.width, $0.height] }).count == sizes.count, "sizes", "two are the same")
        try require(Set(sizes.map(\.method)).count == sizes.count, "sizes", "two have the same method")
        for (index, size) in sizes.enumerated().dropFirst() {
            try require(size.check.map { files[$0] != nil } ?? false, "sizes.\(index).check", "is not listed")
        }
    }

    private func validateQuantization() throws(ContractViolation) {
        let sizes = [quantization.unetBytes, quantization.unetDownloadBytes, quantization.unetFP32Bytes]
        try require(sizes.allSatisfy { $0 >= 0 }, "quantization", "sizes must not be negative")
        for layer in quantization.layers {
            try require(layer.weights >= 1, "quantization.layers.\(layer.name).weights", "must be at least 1")
            try require(layer.bytes >= 0, "quantization.layers.\(layer.name).bytes", "must not be negative")
        }
    }
}
