/// One picture: latents, decoder output, and how long each part took, in milliseconds.
package struct Drawing: Sendable {
    /// [1, C, H, W]
    package var latents: Tensor
    /// [1, 3, 8H, 8W] in [-1, 1]
    package var image: Tensor
    /// One entry per component that was loaded for this picture.
    package var loadMS: [String: Double]
    /// The texts (empty text and prompt) together, with the prompt's time table where it has its own.
    package var textEncoderMS: Double
    package var unetCallMS: [Double]
    package var decoderMS: Double
    package var totalMS: Double
}

/// What is drawn.
package struct DrawingRequest: Equatable, Sendable {
    package var prompt: String
    /// What to stay away from; nil: the empty text, as the model's family takes it.
    package var negativePrompt: String?
    /// Of the noise.
    package var seed: UInt64

    package init(prompt: String, negativePrompt: String? = nil, seed: UInt64) {
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.seed = seed
    }
}

/// What a drawing tells while it goes on.
package enum DrawingEvent: Sendable {
    /// A component begins: it is loaded where it is not yet.
    case began(component: String)
    /// Milliseconds of one U-Net call.
    case called(index: Int, milliseconds: Double)
    /// The state that the call led to, [1, C, H, W].
    case state(index: Int, Tensor)
}

/// Prompt to picture on any set of components.
package struct ImagePipeline: Sendable {
    package typealias Observe = @Sendable (DrawingEvent) -> Void

    package let bundle: ModelBundle
    package let components: ComponentSet
    package let residency: Residency
    private let tokenizer: ClipTokenizer
    /// With two text encoders.
    private let secondTokenizer: ClipTokenizer?
    private let sampler: Sampler
    private let clock: any DrawingClock

    package init(
        bundle: ModelBundle, components: ComponentSet, residency: Residency, clock: any DrawingClock
    ) throws(S2PError) {
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
    package func tokenIDs(_ prompt: String, negativePrompt: String? = nil) -> [[Int32]] {
        texts(prompt, negativePrompt).map(tokenizer.encode)
    }

    /// The same for the second text encoder; empty where there is one.
    package func secondTokenIDs(_ prompt: String, negativePrompt: String? = nil) -> [[Int32]] {
        secondTokenizer.map { texts(prompt, negativePrompt).map($0.encode) } ?? []
    }

    private func texts(_ prompt: String, _ negativePrompt: String?) -> [String] {
        bundle.manifest.batch == 2 ? [negativePrompt ?? "", prompt] : [prompt]
    }

    /// Refuses a negative prompt that would have no effect.
    ///
    /// - Throws: `usage` where the bundle draws without guidance: there is no unconditional branch.
    package func check(_ request: DrawingRequest) throws(S2PError) {
        if request.negativePrompt != nil, bundle.manifest.batch == 1 {
            throw .usage(
                "a negative prompt has no effect at guidance \(bundle.manifest.guidance)",
                "leave it out, or convert a checkpoint with a guidance above 1"
            )
        }
    }

    /// Draws a prompt with the bundle's plan and guidance.
    package func draw(_ prompt: String, seed: UInt64, observe: Observe = { _ in }) async throws -> Drawing {
        try await draw(DrawingRequest(prompt: prompt, seed: seed), observe: observe)
    }

    /// Draws with the bundle's plan and guidance.
    ///
    /// - Throws: `usage`; what the components throw; `CancellationError` when the task is cancelled, at the next call.
    package func draw(_ request: DrawingRequest, observe: Observe = { _ in }) async throws -> Drawing {
        try check(request)
        let manifest = bundle.manifest
        let start = clock.milliseconds
        var loadMS: [String: Double] = [:]
        let (conditions, textMS) = try await conditions(of: request, &loadMS, observe)
        var callMS: [Double] = []
        let initial = sampler.initialLatents(seed: request.seed, shape: manifest.latents.shape)
        let (latents, _) = try await stage("unet", components.unet, &loadMS, observe) {
            try await sampler.denoise(from: initial, seed: request.seed) { scaled, index in
                try Task.checkCancellation()
                let batch = Tensor.concatenated([Tensor](repeating: scaled, count: manifest.batch))
                let called = clock.milliseconds
                let output = try await components.unet.predict(
                    sample: batch, step: index, embeddings: conditions.embeddings, timeTable: conditions.timeTable
                )
                let elapsed = clock.milliseconds - called
                callMS.append(elapsed)
                observe(.called(index: index, milliseconds: elapsed))
                return guided(output, guidance: manifest.guidance)
            } onState: { index, state in
                observe(.state(index: index, state))
            }
        }
        try Task.checkCancellation()
        let (image, decoderMS) = try await stage("vae_decoder", components.decoder, &loadMS, observe) {
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

    private func conditions(
        of request: DrawingRequest, _ loadMS: inout [String: Double], _ observe: Observe
    ) async throws -> (Conditions, Double) {
        let ids = tokenIDs(request.prompt, negativePrompt: request.negativePrompt)
        guard let conditioning = bundle.manifest.conditioning else {
            let (embeddings, elapsed) = try await stage("text_encoder", components.textEncoder, &loadMS, observe) {
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
            throw S2PError.backend(component: "time_table", reason: "this backend has none for the bundle")
        }
        let rows = Array(zip(ids, secondTokenIDs(request.prompt, negativePrompt: request.negativePrompt)))
        let zeros = conditioning.zeroUnconditional && request.negativePrompt == nil
        let (texts, textMS) = try await stage("text_encoder", components.textEncoder, &loadMS, observe) {
            // The prompt is last; zeros of its shape stand before it where the model was trained so.
            var texts: [(hidden: Tensor, pooled: Tensor)] = []
            for (row, second) in rows.reversed() {
                try Task.checkCancellation()
                if let text = texts.first, zeros {
                    texts.insert((text.hidden.zeros, text.pooled.zeros), at: 0)
                } else {
                    texts.insert(try await components.textEncoder.encodePooled(row, second: second), at: 0)
                }
            }
            return texts
        }
        let numbers = [[Double]](repeating: conditioning.timeIDs, count: ids.count).joined().map { Float($0) }
        let timeIDs = Tensor(shape: [ids.count, conditioning.timeIDs.count], data: numbers)
        let (table, tableMS) = try await stage("time_table", network, &loadMS, observe) {
            try await network.timeTable(pooled: Tensor.concatenated(texts.map(\.pooled)), timeIDs: timeIDs)
        }
        return (Conditions(embeddings: Tensor.concatenated(texts.map(\.hidden)), timeTable: table), textMS + tableMS)
    }

    /// Loads every component and releases it again, one after the other: the device compiles and specialises what it has not yet.
    package func prewarm(observe: Observe = { _ in }) async throws {
        for (name, component) in components.all {
            try Task.checkCancellation()
            observe(.began(component: name))
            try await component.load()
            await component.unload()
        }
    }

    /// Releases everything.
    package func unload() async {
        for (_, component) in components.all { await component.unload() }
    }

    /// Loads a component, runs `body`, and releases the component again when staged, also after an error.
    private func stage<Result>(
        _ name: String, _ component: any PipelineComponent, _ loadMS: inout [String: Double], _ observe: Observe,
        _ body: () async throws -> Result
    ) async throws -> (Result, Double) {
        observe(.began(component: name))
        let start = clock.milliseconds
        try await component.load()
        let loaded = clock.milliseconds
        loadMS[name] = loaded - start
        do {
            let result = try await body()
            let elapsed = clock.milliseconds - loaded
            if residency == .staged { await component.unload() }
            return (result, elapsed)
        } catch {
            if residency == .staged { await component.unload() }
            throw error
        }
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
