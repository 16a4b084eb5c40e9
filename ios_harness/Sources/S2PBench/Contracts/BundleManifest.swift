/// One input or output of a component.
public struct TensorSpec: Codable, Equatable, Sendable {
    public enum ElementType: String, Codable, Sendable {
        case float16, float32, int32, int64
    }

    public let name: String
    public let dtype: ElementType
    public let shape: [Int]
}

/// Processors that may run a program: the Neural Engine or the GPU, each with the CPU for what is left; all of them; the CPU alone.
public enum ComputeUnit: String, Codable, Sendable, CaseIterable {
    case neuralEngine = "neural-engine"
    case gpu, all, cpu

    /// What programs may be written for. The CPU alone is for comparisons.
    public static let inManifests: [ComputeUnit] = [.neuralEngine, .gpu, .all]

    /// As manifests name it.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let unit = Self(rawValue: try container.decode(String.self)), Self.inManifests.contains(unit) else {
            let known = Self.inManifests.map(\.rawValue).joined(separator: ", ")
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "is not one of \(known)")
        }
        self = unit
    }
}

/// One program of the bundle. `path` is a file (.pte) or a folder (.mlpackage) inside the bundle.
public struct ComponentSpec: Codable, Equatable, Sendable {
    public enum Precision: String, Codable, Sendable {
        case float16, float32
    }

    public let path: String
    public let precision: Precision
    public let inputs: [TensorSpec]
    public let outputs: [TensorSpec]
    public let backend: String
    /// What it was written for; absent: the engine's own choice.
    public let computeUnit: ComputeUnit?
    /// Chip to its own file, of a program that is compiled for each; absent: it runs on any.
    public let chips: [String: String]?

    enum CodingKeys: String, CodingKey {
        case path, precision, inputs, outputs, backend, chips
        case computeUnit = "compute_unit"
    }
}

/// Checksum of one file.
public struct FileEntry: Codable, Equatable, Sendable {
    public let sha256: String
    public let bytes: Int
}

/// Latent shape, and `vae input = latent * std / scalingFactor + shiftFactor + mean`.
public struct LatentSpec: Codable, Equatable, Sendable {
    public let channels: Int
    public let height: Int
    public let width: Int
    public let scalingFactor: Double
    public let shiftFactor: Double
    /// Of each channel; nil: none is added.
    @Nullable public var mean: [Double]?
    /// Of each channel; nil: the latents are taken as they are.
    @Nullable public var std: [Double]?

    /// [1, C, H, W]
    public var shape: [Int] { [1, channels, height, width] }

    enum CodingKeys: String, CodingKey {
        case channels, height, width
        case scalingFactor = "scaling_factor"
        case shiftFactor = "shift_factor"
        case mean, std
    }

    func validate() throws(ContractViolation) {
        try require(channels >= 1 && height >= 1 && width >= 1, "latents", "sizes must be at least 1")
        try require(scalingFactor > 0, "latents.scaling_factor", "must be above 0")
        for (name, values) in [("mean", mean), ("std", std)] {
            try require(values.map { $0.count == channels } ?? true, "latents.\(name)", "must be a number for each channel")
        }
    }
}

/// How one layer of the U-Net is stored.
public struct LayerSummary: Codable, Equatable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case conv, linear
    }

    public let name: String
    public let kind: Kind
    public let weightBits: Int
    /// nil: activations stay in float.
    @Nullable public var activationBits: Int?
    public let scheme: String
    public let weights: Int
    public let bytes: Int

    enum CodingKeys: String, CodingKey {
        case name, kind
        case weightBits = "weight_bits"
        case activationBits = "activation_bits"
        case scheme, weights, bytes
    }
}

/// Quantization of the U-Net, layer by layer.
public struct QuantizationSummary: Codable, Equatable, Sendable {
    public let method: String
    public let recipe: String
    public let averageWeightBits: Double
    public let unetBytes: Int
    public let unetDownloadBytes: Int
    public let unetFP32Bytes: Int
    public let layers: [LayerSummary]

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
public struct GoldenRunSpec: Codable, Equatable, Sendable {
    public let id: String
    public let prompt: String
    public let seed: UInt64
    public let path: String
}

/// A size of pictures that a bundle draws. Where there are several, U-Net and VAE decoder have a function for each; their weights
/// exist once.
public struct PictureSize: Codable, Equatable, Sendable {
    public let width: Int
    public let height: Int
    public let latentWidth: Int
    public let latentHeight: Int
    /// Name of the function; nil: the default one, as the first size has it.
    @Nullable public var method: String?
    /// A safetensors file with calls at this size; nil for the first, which golden runs check.
    @Nullable public var check: String?

    enum CodingKeys: String, CodingKey {
        case width, height
        case latentWidth = "latent_width"
        case latentHeight = "latent_height"
        case method, check
    }
}

/// `manifest.json` of a bundle. The Python model `s2p_runtime.bundle.BundleManifest` is the schema.
public struct BundleManifest: Contract {
    public static let formatName = "s2p-bundle"
    public static let formatVersion = 1

    public let format: String
    public let version: Int
    public let name: String
    public let family: String
    /// What the programs are written for. Readers take any name; an engine refuses what it does not run.
    public let target: String
    public let producer: String
    public let checkpointSHA256: String
    public let components: [String: ComponentSpec]
    /// Components that are the U-Net together, in the order in which they run; empty where it is one program.
    public let chunks: [String]
    public let plan: SamplingPlan
    /// 1.0 or less: no classifier-free guidance, batch of one.
    public let guidance: Double
    public let latents: LatentSpec
    /// Sizes of pictures, that of `latents` first.
    public let sizes: [PictureSize]
    public let tokenizer: TokenizerSpec
    /// nil: one time table serves all prompts. Else it belongs to the prompt, and the bundle has a component `time_table`.
    @Nullable public var conditioning: Conditioning?
    public let quantization: QuantizationSummary
    public let golden: [GoldenRunSpec]
    /// Every file of the bundle but the manifest, by relative path.
    public let files: [String: FileEntry]

    /// Two with classifier-free guidance, [unconditional, conditional], else one.
    public var batch: Int { guidance > 1 ? 2 : 1 }

    enum CodingKeys: String, CodingKey {
        case format, version, name, family, target, producer
        case checkpointSHA256 = "checkpoint_sha256"
        case components, chunks, plan, guidance, latents, sizes, tokenizer, conditioning, quantization, golden, files
    }

    public func validate() throws(ContractViolation) {
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
            let folder = component.path + "/"
            let listed = files[component.path] != nil || files.keys.contains { $0.hasPrefix(folder) }
            try require(listed, "components.\(name)", "has no file \(component.path)")
            guard let chips = component.chips else { continue }
            try require(chips.values.contains(component.path), "components.\(name)", "chips: path is none of its files")
            for (chip, file) in chips {
                try require(files[file] != nil, "components.\(name)", "has no file \(file) for \(chip)")
            }
        }
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
    }

    private func validateSizes() throws(ContractViolation) {
        let own = sizes.first.map { $0.latentWidth == latents.width && $0.latentHeight == latents.height && $0.check == nil }
        try require(own == true, "sizes", "the first is not that of the latents, which golden runs check")
        for (index, size) in sizes.enumerated() {
            let positive = [size.width, size.height, size.latentWidth, size.latentHeight].allSatisfy { $0 >= 1 }
            try require(positive, "sizes.\(index)", "must be at least 1")
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
