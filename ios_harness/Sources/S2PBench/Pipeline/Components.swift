/// The three programs of a bundle, whatever runs them. Implementations own their program's memory: `load` may take
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
}

/// The U-Net. Time enters as the call's index alone.
public protocol Denoising: PipelineComponent {
    /// - Parameters:
    ///   - sample: [B, C, H, W], B = 2 under guidance, [unconditional, conditional].
    ///   - step: index of the call in the sampling plan.
    ///   - embeddings: [B, N, D].
    /// - Returns: [B, C, H, W], before guidance.
    func predict(sample: Tensor, step: Int, embeddings: Tensor) async throws -> Tensor
}

/// Latents to a picture.
public protocol ImageDecoding: PipelineComponent {
    /// - Parameter latents: [1, C, H, W], scaled for the decoder.
    /// - Returns: [1, 3, 8H, 8W] in [-1, 1].
    func decode(_ latents: Tensor) async throws -> Tensor
}

/// All components of a bundle and how the report names their backends.
public struct ComponentSet: Sendable {
    public let textEncoder: any TextEncoding
    public let unet: any Denoising
    public let decoder: any ImageDecoding
    /// Whether the components only answer what one golden run holds.
    public let isReplay: Bool
    /// What runs each component, by name in the bundle. Asked after the measurement, because finding out may cost memory.
    public let describeBackend: @Sendable () async -> [String: String]

    public init(
        textEncoder: any TextEncoding, unet: any Denoising, decoder: any ImageDecoding, isReplay: Bool = false,
        describeBackend: @escaping @Sendable () async -> [String: String]
    ) {
        self.textEncoder = textEncoder
        self.unet = unet
        self.decoder = decoder
        self.isReplay = isReplay
        self.describeBackend = describeBackend
    }

    /// (name in the bundle, component), in the order of use.
    public var all: [(name: String, component: any PipelineComponent)] {
        [("text_encoder", textEncoder), ("unet", unet), ("vae_decoder", decoder)]
    }
}

/// Which components stay in memory.
public enum Residency: String, Sendable, CaseIterable {
    /// All three, loaded once.
    case resident
    /// One at a time, loaded and released per picture: for phones with little memory.
    case staged

    /// Staged when the three programs would take more than half of what the system lets the process have.
    /// The half is room for Core ML's activations and caches, which no file size tells.
    public static func suited(to bundleBytes: Int?, availableBytes: Int?) -> Residency {
        guard let bundleBytes, let availableBytes else { return .resident }
        return bundleBytes > availableBytes / 2 ? .staged : .resident
    }
}
