/// The programs of a bundle, whatever runs them. Implementations own their program's memory: `load` may take
/// minutes (Core ML compiles), `unload` gives everything back. Calls come one at a time.
package protocol PipelineComponent: Sendable {
    /// Loads the program; does nothing when it is loaded.
    func load() async throws
    func unload() async
    /// What making it ready took the first time, by what a program was made of; nil: nobody knows.
    func firstLoad() async -> FirstLoad?
}

extension PipelineComponent {
    package func firstLoad() async -> FirstLoad? { nil }
}

/// What it took to make a program ready on this device for the first time, in milliseconds, in whichever launch it was. nil where
/// the system does it inside of another part.
package struct FirstLoad: Codable, Equatable, Sendable {
    /// From the bundle's form to the system's.
    package var compile: Double?
    /// For the device's processors.
    package var specialise: Double?
    /// The first load of what was compiled or specialised.
    package var first: Double?

    package init(compile: Double? = nil, specialise: Double? = nil, first: Double? = nil) {
        self.compile = compile
        self.specialise = specialise
        self.first = first
    }

    /// Of several programs together; a part that one does not know is unknown.
    package init(of parts: [FirstLoad]) {
        func sum(_ part: (FirstLoad) -> Double?) -> Double? {
            let known = parts.compactMap(part)
            return known.isEmpty || known.count < parts.count ? nil : known.reduce(0, +)
        }
        self.init(compile: sum(\.compile), specialise: sum(\.specialise), first: sum(\.first))
    }
}

/// Text to features.
package protocol TextEncoding: PipelineComponent {
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
    package func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
        throw S2PError.backend(component: "text_encoder", reason: "it gives no pooled text")
    }
}

/// Pooled text and picture size to the time table of a prompt (SDXL).
package protocol TimeTabling: PipelineComponent {
    /// - Parameters:
    ///   - pooled: [B, P].
    ///   - timeIDs: [B, 6].
    /// - Returns: [B, T, K].
    func timeTable(pooled: Tensor, timeIDs: Tensor) async throws -> Tensor
}

/// The U-Net. Time enters as the call's index alone.
package protocol Denoising: PipelineComponent {
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
    package func predict(sample: Tensor, step: Int, embeddings: Tensor) async throws -> Tensor {
        try await predict(sample: sample, step: step, embeddings: embeddings, timeTable: nil)
    }
}

/// A picture to latents, for drawings that start from one.
package protocol ImageEncoding: PipelineComponent {
    /// - Parameter image: [1, 3, 8H, 8W] in [-1, 1].
    /// - Returns: moments of its latents [1, 2 C, H, W], means before log variances.
    func encode(_ image: Tensor) async throws -> Tensor
}

/// Latents to a picture.
package protocol ImageDecoding: PipelineComponent {
    /// - Parameter latents: [1, C, H, W], scaled for the decoder.
    /// - Returns: [1, 3, 8H, 8W] in [-1, 1].
    func decode(_ latents: Tensor) async throws -> Tensor
}

/// What ran the programs of a bundle, for the report.
package struct EngineDescription: Equatable, Sendable {
    /// Component to what ran it, in words.
    package var backend: [String: String]
    /// Program to what it was loaded for; empty where the engine has no such choice.
    package var computeUnits: [String: ComputeUnit]
    /// In the order of the programs; empty where the engine does not tell.
    package var placement: [PlacedOperator]

    package init(backend: [String: String], computeUnits: [String: ComputeUnit] = [:], placement: [PlacedOperator] = []) {
        self.backend = backend
        self.computeUnits = computeUnits
        self.placement = placement
    }
}

/// A component by its name in the bundle.
package typealias NamedComponent = (name: String, component: any PipelineComponent)

/// The components that are others for each picture size.
package struct SizedComponents: Sendable {
    /// Of bundles that start from pictures.
    package let encoder: (any ImageEncoding)?
    package let unet: any Denoising
    package let decoder: any ImageDecoding

    package init(encoder: (any ImageEncoding)?, unet: any Denoising, decoder: any ImageDecoding) {
        self.encoder = encoder
        self.unet = unet
        self.decoder = decoder
    }

    /// In the order of use.
    var all: [NamedComponent] { (encoder.map { [("vae_encoder", $0)] } ?? []) + [("unet", unet), ("vae_decoder", decoder)] }
}

/// All components of a bundle and what the report says of their engine.
package struct ComponentSet: Sendable {
    package let textEncoder: any TextEncoding
    /// Where the time table belongs to the prompt.
    package let timeTable: (any TimeTabling)?
    /// In the order of the manifest's sizes. A replay has the first alone, which golden runs are of.
    package let sized: [SizedComponents]
    /// Whether the components only answer what one golden run holds.
    package let isReplay: Bool
    /// What runs the components. With `placement` also where operators run, which is asked last: finding out may cost memory.
    package let describe: @Sendable (_ placement: Bool) async -> EngineDescription

    /// - Parameters:
    ///   - encoder, unet, decoder: of the first picture size.
    ///   - others: of the further ones.
    package init(
        encoder: (any ImageEncoding)? = nil, textEncoder: any TextEncoding, timeTable: (any TimeTabling)? = nil, unet: any Denoising,
        decoder: any ImageDecoding, others: [SizedComponents] = [], isReplay: Bool = false,
        describe: @escaping @Sendable (_ placement: Bool) async -> EngineDescription
    ) {
        self.textEncoder = textEncoder
        self.timeTable = timeTable
        sized = [SizedComponents(encoder: encoder, unet: unet, decoder: decoder)] + others
        self.isReplay = isReplay
        self.describe = describe
    }

    package var encoder: (any ImageEncoding)? { sized[0].encoder }
    package var unet: any Denoising { sized[0].unet }
    package var decoder: any ImageDecoding { sized[0].decoder }

    /// In the order of use, those of further picture sizes last.
    package var all: [NamedComponent] {
        (encoder.map { [("vae_encoder", $0)] } ?? []) + ofEveryDrawing + sized.dropFirst().flatMap(\.all)
    }

    /// Those of the first size, without what only a drawing from a picture needs: what is loaded ahead, and measured.
    package var ofEveryDrawing: [NamedComponent] {
        let table: [NamedComponent] = timeTable.map { [("time_table", $0)] } ?? []
        return [("text_encoder", textEncoder)] + table + [("unet", unet), ("vae_decoder", decoder)]
    }
}

/// Which components stay in memory.
package enum Residency: String, Sendable, CaseIterable {
    /// All, loaded once.
    case resident
    /// One at a time, loaded and released per picture: for phones with little memory.
    case staged
}
