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

    /// Refuses a negative prompt that would have no effect, a picture to start from that does not fit, and a size that the components
    /// do not draw.
    ///
    /// - Throws: `usage`, `notRecorded`. Where the bundle draws without guidance there is no unconditional branch.
    package func check(_ request: DrawingRequest) throws(S2PError) {
        if request.negativePrompt != nil, bundle.manifest.batch == 1 {
            throw .usage(
                "a negative prompt has no effect at guidance \(bundle.manifest.guidance)",
                "leave it out, or convert a checkpoint with a guidance above 1"
            )
        }
        _ = try start(of: request)
        _ = try place(of: size(of: request))
    }

    private func size(of request: DrawingRequest) -> PictureSize { request.size ?? bundle.manifest.sizes[0] }

    /// Index of the components for a picture size.
    private func place(of size: PictureSize) throws(S2PError) -> Int {
        guard let place = bundle.manifest.sizes.firstIndex(of: size), components.sized.indices.contains(place) else {
            throw .notRecorded(what: "pictures of \(size.title)")
        }
        return place
    }

    /// The components for a picture size. Programs for the others are let go: each would take the memory of the whole model.
    private func sized(for size: PictureSize) async throws -> SizedComponents {
        let wanted = try place(of: size)
        for (place, others) in components.sized.enumerated() where place != wanted {
            for (_, component) in others.all { await component.unload() }
        }
        return components.sized[wanted]
    }

    /// Where a drawing begins; nil: at the first call, from noise.
    ///
    /// - Throws: `usage`: the bundle draws from noise only, a strength out of range, or a picture of another size.
    package func start(of request: DrawingRequest) throws(S2PError) -> ImageStart? {
        guard let image = request.image else { return nil }
        let manifest = bundle.manifest
        guard let starts = manifest.imageStarts else {
            throw .usage(
                "\(manifest.name) has no VAE encoder, so it cannot start from a picture",
                "convert with --image-to-image, or leave the picture out"
            )
        }
        let skipped = try manifest.plan.skippedSteps(strength: image.strength)
        let (picture, wanted) = (image.picture, size(of: request))
        guard picture.width == wanted.width, picture.height == wanted.height else {
            throw .usage(
                "the picture to start from is \(picture.width)x\(picture.height) pixels, not \(wanted.width)x\(wanted.height)",
                "scale it to what \(manifest.name) draws"
            )
        }
        return starts[skipped]
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
        let sized = try await sized(for: size(of: request))
        let (sampler, initial) = try await beginning(of: request, sized.encoder, &loadMS, observe)
        let (conditions, textMS) = try await conditions(of: request, &loadMS, observe)
        var callMS: [Double] = []
        let (latents, _) = try await stage("unet", sized.unet, &loadMS, observe) {
            try await sampler.denoise(from: initial, seed: request.seed) { scaled, index in
                try Task.checkCancellation()
                let batch = Tensor.concatenated([Tensor](repeating: scaled, count: manifest.batch))
                let called = clock.milliseconds
                let output = try await sized.unet.predict(
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
        let (image, decoderMS) = try await stage("vae_decoder", sized.decoder, &loadMS, observe) {
            try await sized.decoder.decode(decoderInput(latents, manifest.latents))
        }
        return Drawing(
            latents: latents, image: image, loadMS: loadMS, textEncoderMS: textMS, unetCallMS: callMS, decoderMS: decoderMS,
            totalMS: clock.milliseconds - start
        )
    }

    /// The loop of a drawing, and the state that it begins at.
    private func beginning(
        of request: DrawingRequest, _ encoder: (any ImageEncoding)?, _ loadMS: inout [String: Double], _ observe: Observe
    ) async throws -> (Sampler, Tensor) {
        let spec = bundle.manifest.latents.resized(to: size(of: request))
        guard let image = request.image, let start = try start(of: request) else {
            return (sampler, sampler.initialLatents(seed: request.seed, shape: spec.shape))
        }
        guard let encoder else {
            throw S2PError.backend(component: "vae_encoder", reason: "this backend has none for the bundle")
        }
        let (moments, _) = try await stage("vae_encoder", encoder, &loadMS, observe) {
            try await encoder.encode(encoderInput(image.picture))
        }
        // Encoders overflow in float16 sooner than the rest.
        guard moments.data.allSatisfy(\.isFinite) else {
            throw S2PError.backend(component: "vae_encoder", reason: "it gives numbers that are not finite")
        }
        try Task.checkCancellation()
        let encoded = try encodedLatents(moments, spec)
        return (Sampler(plan: bundle.manifest.plan, start: start), start.state(of: encoded, seed: request.seed))
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
        guard let conditioning = bundle.manifest.conditioning, let sizeIDs = bundle.manifest.timeIDs(at: size(of: request)) else {
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
        let numbers = [[Double]](repeating: sizeIDs, count: ids.count).joined().map { Float($0) }
        let timeIDs = Tensor(shape: [ids.count, sizeIDs.count], data: numbers)
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
