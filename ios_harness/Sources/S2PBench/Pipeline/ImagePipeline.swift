/// One picture: latents, decoder output, and how long each part took, in milliseconds.
public struct Drawing: Sendable {
    /// [1, C, H, W]
    public var latents: Tensor
    /// [1, 3, 8H, 8W] in [-1, 1]
    public var image: Tensor
    /// One entry per component that was loaded for this picture.
    public var loadMS: [String: Double]
    /// The texts (empty text and prompt) together, with the prompt's time table where it has its own.
    public var textEncoderMS: Double
    public var unetCallMS: [Double]
    public var decoderMS: Double
    public var totalMS: Double
}

/// Prompt to picture on any set of components.
public struct ImagePipeline: Sendable {
    public let bundle: ModelBundle
    public let components: ComponentSet
    public let residency: Residency
    private let tokenizer: ClipTokenizer
    /// With two text encoders.
    private let secondTokenizer: ClipTokenizer?
    private let sampler: Sampler
    private let clock: any BenchClock

    public init(
        bundle: ModelBundle, components: ComponentSet, residency: Residency, clock: any BenchClock
    ) throws(BenchError) {
        self.bundle = bundle
        self.components = components
        self.residency = residency
        self.clock = clock
        tokenizer = try ClipTokenizer(bundle: bundle)
        if let conditioning = bundle.manifest.conditioning {
            secondTokenizer = try ClipTokenizer(bundle: bundle, spec: conditioning.secondTokenizer)
        } else {
            secondTokenizer = nil
        }
        sampler = Sampler(plan: bundle.manifest.plan)
    }

    /// The token ids that the (first) text encoder sees, [unconditional, conditional] or [conditional].
    public func tokenIDs(_ prompt: String) -> [[Int32]] { texts(prompt).map(tokenizer.encode) }

    /// The same for the second text encoder; empty where there is one.
    public func secondTokenIDs(_ prompt: String) -> [[Int32]] {
        secondTokenizer.map { texts(prompt).map($0.encode) } ?? []
    }

    private func texts(_ prompt: String) -> [String] { bundle.manifest.batch == 2 ? ["", prompt] : [prompt] }

    /// Draws `prompt` with the bundle's plan and guidance.
    ///
    /// - Parameter onCall: told (call index, milliseconds) after each U-Net call.
    public func draw(
        _ prompt: String, seed: UInt64, onCall: @Sendable (Int, Double) -> Void = { _, _ in }
    ) async throws -> Drawing {
        let manifest = bundle.manifest
        let start = clock.milliseconds
        var loadMS: [String: Double] = [:]
        let (conditions, textMS) = try await conditions(of: prompt, &loadMS)
        var callMS: [Double] = []
        let initial = sampler.initialLatents(seed: seed, shape: manifest.latents.shape)
        let (latents, _) = try await stage("unet", components.unet, &loadMS) {
            try await sampler.denoise(from: initial, seed: seed) { scaled, index in
                try Task.checkCancellation()
                let batch = Tensor.concatenated([Tensor](repeating: scaled, count: manifest.batch))
                let called = clock.milliseconds
                let output = try await components.unet.predict(
                    sample: batch, step: index, embeddings: conditions.embeddings, timeTable: conditions.timeTable
                )
                let elapsed = clock.milliseconds - called
                callMS.append(elapsed)
                onCall(index, elapsed)
                return guided(output, guidance: manifest.guidance)
            }
        }
        let (image, decoderMS) = try await stage("vae_decoder", components.decoder, &loadMS) {
            try await components.decoder.decode(decoderInput(latents, manifest.latents))
        }
        return Drawing(
            latents: latents, image: image, loadMS: loadMS, textEncoderMS: textMS, unetCallMS: callMS, decoderMS: decoderMS,
            totalMS: clock.milliseconds - start
        )
    }

    /// What a prompt tells the U-Net, the same for all calls.
    private struct Conditions {
        var embeddings: Tensor
        var timeTable: Tensor?
    }

    private func conditions(of prompt: String, _ loadMS: inout [String: Double]) async throws -> (Conditions, Double) {
        let ids = tokenIDs(prompt)
        guard let conditioning = bundle.manifest.conditioning else {
            let (embeddings, elapsed) = try await stage("text_encoder", components.textEncoder, &loadMS) {
                var features: [Tensor] = []
                for row in ids {
                    try Task.checkCancellation()
                    features.append(try await components.textEncoder.encode(row))
                }
                return Tensor.concatenated(features)
            }
            return (Conditions(embeddings: embeddings), elapsed)
        }
        guard let network = components.timeTable else {
            throw BenchError.backend(component: "time_table", reason: "this backend has none for the bundle")
        }
        let rows = Array(zip(ids, secondTokenIDs(prompt)))
        let (texts, textMS) = try await stage("text_encoder", components.textEncoder, &loadMS) {
            // The prompt is last; zeros of its shape stand before it where the model was trained so.
            var texts: [(hidden: Tensor, pooled: Tensor)] = []
            for (row, second) in rows.reversed() {
                try Task.checkCancellation()
                if let text = texts.first, conditioning.zeroUnconditional {
                    texts.insert((text.hidden.zeros, text.pooled.zeros), at: 0)
                } else {
                    texts.insert(try await components.textEncoder.encodePooled(row, second: second), at: 0)
                }
            }
            return texts
        }
        let numbers = [[Double]](repeating: conditioning.timeIDs, count: ids.count).joined().map { Float($0) }
        let timeIDs = Tensor(shape: [ids.count, conditioning.timeIDs.count], data: numbers)
        let (table, tableMS) = try await stage("time_table", network, &loadMS) {
            try await network.timeTable(pooled: Tensor.concatenated(texts.map(\.pooled)), timeIDs: timeIDs)
        }
        return (Conditions(embeddings: Tensor.concatenated(texts.map(\.hidden)), timeTable: table), textMS + tableMS)
    }

    /// Releases everything.
    public func unload() async {
        for (_, component) in components.all { await component.unload() }
    }

    /// Loads a component, runs `body`, and releases the component again when staged.
    private func stage<Result>(
        _ name: String, _ component: any PipelineComponent, _ loadMS: inout [String: Double], _ body: () async throws -> Result
    ) async throws -> (Result, Double) {
        let start = clock.milliseconds
        try await component.load()
        let loaded = clock.milliseconds
        loadMS[name] = loaded - start
        let result = try await body()
        let elapsed = clock.milliseconds - loaded
        if residency == .staged { await component.unload() }
        return (result, elapsed)
    }
}

/// `latents * std / scaling_factor + shift_factor + mean` in float32, of latents [1, C, H, W].
func decoderInput(_ latents: Tensor, _ spec: LatentSpec) -> Tensor {
    let factor = Float(spec.scalingFactor)
    let shift = Float(spec.shiftFactor)
    let std = spec.std?.map { Float($0) }
    let mean = spec.mean?.map { Float($0) }
    let plane = latents.data.count / spec.channels
    let data = latents.data.enumerated().map { index, value in
        let channel = index / plane
        return value * (std?[channel] ?? 1) / factor + shift + (mean?[channel] ?? 0)
    }
    return Tensor(shape: latents.shape, data: data)
}
