/// What a golden run holds of the run that starts from its own picture, over the same outputs of the U-Net.
package struct RecordedStart: Sendable {
    /// Of the picture in 8 bits, [1, 2 C, H, W].
    package let moments: Tensor
    /// Index of the manifest's `image_starts`.
    package let step: Int
    /// Where the rows lead, [1, C, H, W].
    package let latents: Tensor

    /// - Returns: nil: the bundle, or this run, has none.
    init?(_ file: SafetensorsFile, of run: String, in bundle: ModelBundle) throws(S2PError) {
        let spec = bundle.manifest.latents
        guard let starts = bundle.manifest.imageStarts, file.entries["moments"] != nil else { return nil }
        moments = try file.floats("moments").checked("moments", shape: [1, 2 * spec.channels, spec.height, spec.width])
        latents = try file.floats("from_picture_latents").checked("from_picture_latents", shape: spec.shape)
        guard let entry = try file.int32s("from_picture_step").data.first, starts.indices.contains(Int(entry)) else {
            throw .noGoldenRun(folder: bundle.folder.lastPathComponent, reason: "\(run) starts at an impossible step")
        }
        step = Int(entry)
    }
}

/// The tensors of one golden run (docs/formats.md), their shapes checked against the manifest.
package struct GoldenRun: Sendable {
    package let spec: GoldenRunSpec
    /// B rows of N ids.
    package let tokenIDs: [[Int32]]
    /// The same texts by the second tokenizer; empty with one text encoder.
    package let secondTokenIDs: [[Int32]]
    /// [B, N, D]
    package let textEmbeddings: Tensor
    /// [B, P], [B, 6] and [B, T, K]; nil where one time table serves all prompts.
    package let pooledText: Tensor?
    package let timeIDs: Tensor?
    package let timeTable: Tensor?
    /// [1, C, H, W]
    package let initialLatents: Tensor
    /// Indices of the calls whose outputs are recorded, ascending.
    package let calls: [Int]
    /// [K, B, C, H, W]
    package let noisePred: Tensor
    package let quantizedLatents: Tensor
    package let fpLatents: Tensor
    /// [1, 3, 8H, 8W]
    package let image: Tensor
    package let fpImage: Tensor
    package let fromPicture: RecordedStart?

    /// - Throws: `outside`, `notFound`, `badTensors`, `shapeMismatch` or `noGoldenRun`.
    package init(_ spec: GoldenRunSpec, in bundle: ModelBundle) throws(S2PError) {
        let manifest = bundle.manifest
        let file = try SafetensorsFile(opening: bundle.path(spec.path))
        let shape = manifest.latents.shape
        let batch = manifest.batch
        let length = manifest.tokenizer.maxLength
        self.spec = spec

        func rows(_ name: String) throws(S2PError) -> [[Int32]] {
            let ids = try file.int32s(name)
            guard ids.shape == [batch, length] else {
                throw .shapeMismatch(what: name, found: ids.shape, expected: [batch, length])
            }
            return (0..<batch).map { Array(ids.data[$0 * length..<($0 + 1) * length]) }
        }
        tokenIDs = try rows("token_ids")
        secondTokenIDs = manifest.conditioning == nil ? [] : try rows("second_token_ids")

        let embeddings = try file.floats("text_embeddings")
        guard embeddings.shape.count == 3, embeddings.shape.prefix(2) == [batch, length] else {
            throw .shapeMismatch(what: "text_embeddings", found: embeddings.shape, expected: [batch, length])
        }
        textEmbeddings = embeddings
        let ownTable = manifest.conditioning != nil
        pooledText = ownTable ? try file.floats("pooled_text") : nil
        timeIDs = ownTable ? try file.floats("time_ids").checked("time_ids", shape: [batch, 6]) : nil
        timeTable = ownTable ? try file.floats("time_table") : nil

        let recorded = try file.int32s("noise_pred_calls").data.map { Int($0) }
        guard zip(recorded, recorded.dropFirst()).allSatisfy({ $0 < $1 }),
            recorded.allSatisfy({ manifest.plan.calls.indices.contains($0) })
        else {
            throw .noGoldenRun(folder: bundle.folder.lastPathComponent, reason: "\(spec.id) lists impossible calls")
        }
        calls = recorded
        initialLatents = try file.floats("initial_latents").checked("initial_latents", shape: shape)
        noisePred = try file.floats("noise_pred").checked("noise_pred", shape: [calls.count, batch] + shape.dropFirst())
        quantizedLatents = try file.floats("quantized_latents").checked("quantized_latents", shape: shape)
        fpLatents = try file.floats("fp_latents").checked("fp_latents", shape: shape)
        let decoded = try file.floats("image")
        guard decoded.shape.count == 4, decoded.shape.prefix(2) == [1, 3] else {
            throw .shapeMismatch(what: "image", found: decoded.shape, expected: [1, 3])
        }
        image = decoded
        fpImage = try file.floats("fp_image").checked("fp_image", shape: decoded.shape)
        fromPicture = try RecordedStart(file, of: spec.id, in: bundle)
    }

    /// Output of one call, [B, C, H, W]; nil when it is not recorded.
    package func output(ofCall index: Int) -> Tensor? {
        guard let place = calls.firstIndex(of: index) else { return nil }
        let row = noisePred.rows(place..<place + 1)
        return Tensor(shape: Array(row.shape.dropFirst()), data: row.data)
    }

    /// Whether all calls of the plan are recorded.
    package func isComplete(for plan: SamplingPlan) -> Bool {
        calls.count == plan.calls.count
    }
}
