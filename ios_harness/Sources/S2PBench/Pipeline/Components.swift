/// The programs of a bundle, whatever runs them. Implementations own their program's memory: `load` may take
/// minutes (Core ML compiles), `unload` gives everything back. Calls come one at a time.
public protocol PipelineComponent: Sendable {
    /// Loads the program; does nothing when it is loaded.
    func load() async throws
    func unload() async
}

/// Text to features.
public protocol TextEncoding: PipelineComponent {
    /// - Parameter tokenIDs: N ids, as `ClipTokenizer.encode` frames them.
    /// - Returns: [1, N, D].
    func encode(_ tokenIDs: [Int32]) async throws -> Tensor

    /// Two text encoders in one program (SDXL).
    ///
    /// - Parameters:
    ///   - tokenIDs: as above.
    ///   - second: the same text for the second encoder, by its own tokenizer.
    /// - Returns: hidden states [1, N, D] and pooled text [1, P].
    func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor)
}

extension TextEncoding {
    public func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
        throw BenchError.backend(component: "text_encoder", reason: "it gives no pooled text")
    }
}

/// Pooled text and picture size to the time table of a prompt (SDXL).
public protocol TimeTabling: PipelineComponent {
    /// - Parameters:
    ///   - pooled: [B, P].
    ///   - timeIDs: [B, 6].
    /// - Returns: [B, T, K].
    func timeTable(pooled: Tensor, timeIDs: Tensor) async throws -> Tensor
}

/// The U-Net. Time enters as the call's index alone.
public protocol Denoising: PipelineComponent {
    /// - Parameters:
    ///   - sample: [B, C, H, W], B = 2 under guidance, [unconditional, conditional].
    ///   - step: index of the call in the sampling plan.
    ///   - embeddings: [B, N, D].
    ///   - timeTable: the prompt's, [B, T, K], where it belongs to the prompt (SDXL).
    /// - Returns: [B, C, H, W], before guidance.
    func predict(sample: Tensor, step: Int, embeddings: Tensor, timeTable: Tensor?) async throws -> Tensor
}

extension Denoising {
    /// For families with one time table for all prompts.
    public func predict(sample: Tensor, step: Int, embeddings: Tensor) async throws -> Tensor {
        try await predict(sample: sample, step: step, embeddings: embeddings, timeTable: nil)
    }
}

/// Latents to a picture.
public protocol ImageDecoding: PipelineComponent {
    /// - Parameter latents: [1, C, H, W], scaled for the decoder.
    /// - Returns: [1, 3, 8H, 8W] in [-1, 1].
    func decode(_ latents: Tensor) async throws -> Tensor
}

/// What ran the programs of a bundle, for the report.
public struct EngineDescription: Equatable, Sendable {
    /// Component to what ran it, in words.
    public var backend: [String: String]
    /// Program to what it was loaded for; empty where the engine has no such choice.
    public var computeUnits: [String: ComputeUnit]
    /// In the order of the programs; empty where the engine does not tell.
    public var placement: [PlacedOperator]

    public init(backend: [String: String], computeUnits: [String: ComputeUnit] = [:], placement: [PlacedOperator] = []) {
        self.backend = backend
        self.computeUnits = computeUnits
        self.placement = placement
    }
}

/// All components of a bundle and what the report says of their engine.
public struct ComponentSet: Sendable {
    public let textEncoder: any TextEncoding
    /// Where the time table belongs to the prompt.
    public let timeTable: (any TimeTabling)?
    public let unet: any Denoising
    public let decoder: any ImageDecoding
    /// Whether the components only answer what one golden run holds.
    public let isReplay: Bool
    /// What runs the components. With `placement` also where operators run, which is asked last: finding out may cost memory.
    public let describe: @Sendable (_ placement: Bool) async -> EngineDescription

    public init(
        textEncoder: any TextEncoding, timeTable: (any TimeTabling)? = nil, unet: any Denoising, decoder: any ImageDecoding,
        isReplay: Bool = false, describe: @escaping @Sendable (_ placement: Bool) async -> EngineDescription
    ) {
        self.textEncoder = textEncoder
        self.timeTable = timeTable
        self.unet = unet
        self.decoder = decoder
        self.isReplay = isReplay
        self.describe = describe
    }

    /// (name in the bundle, component), in the order of use.
    public var all: [(name: String, component: any PipelineComponent)] {
        let table: [(name: String, component: any PipelineComponent)] = timeTable.map { [("time_table", $0)] } ?? []
        return [("text_encoder", textEncoder)] + table + [("unet", unet), ("vae_decoder", decoder)]
    }
}

/// Which components stay in memory.
public enum Residency: String, Sendable, CaseIterable {
    /// All, loaded once.
    case resident
    /// One at a time, loaded and released per picture: for phones with little memory.
    case staged

    /// Staged when the programs would take more than half of what the system lets the process have.
    /// The half is room for Core ML's activations and caches, which no file size tells.
    public static func suited(to bundleBytes: Int?, availableBytes: Int?) -> Residency {
        guard let bundleBytes, let availableBytes else { return .resident }
        return bundleBytes > availableBytes / 2 ? .staged : .resident
    }
}
