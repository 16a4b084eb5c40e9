/// Components that answer from a golden run: they drive the whole loop where there is no Core ML.
package enum Replay {
    /// - Throws: `noGoldenRun` when no golden run holds all calls.
    package static func components(of bundle: ModelBundle) throws(S2PError) -> ComponentSet {
        let run = try recordedRun(of: bundle)
        return ComponentSet(
            encoder: bundle.manifest.imageStarts.map { _ in ReplayEncoder(run: run) }, textEncoder: ReplayTextEncoder(run: run),
            timeTable: bundle.manifest.conditioning == nil ? nil : ReplayTimeTable(run: run), unet: ReplayUNet(run: run),
            decoder: ReplayDecoder(run: run, latents: bundle.manifest.latents), isReplay: true
        ) { _ in
            let description = "replay of golden run \(run.spec.id)"
            // As reports of engines: they tell of drawings from noise.
            let names = bundle.manifest.componentNames.filter { $0 != "vae_encoder" }
            return EngineDescription(backend: Dictionary(uniqueKeysWithValues: names.map { ($0, description) }))
        }
    }

    /// The first golden run that holds all calls.
    package static func recordedRun(of bundle: ModelBundle) throws(S2PError) -> GoldenRun {
        for spec in bundle.manifest.golden {
            let run = try GoldenRun(spec, in: bundle)
            if run.isComplete(for: bundle.manifest.plan) { return run }
        }
        throw .noGoldenRun(folder: bundle.folder.lastPathComponent, reason: "none holds all U-Net calls")
    }
}

struct ReplayEncoder: ImageEncoding {
    let run: GoldenRun

    func load() async {}
    func unload() async {}

    /// Answers for the run's own picture in 8 bits only, bit for bit.
    func encode(_ image: Tensor) async throws -> Tensor {
        guard let recorded = run.fromPicture, image == encoderInput(try Picture(run.image)) else {
            throw S2PError.notRecorded(what: "the latents of this picture")
        }
        return recorded.moments
    }
}

struct ReplayTextEncoder: TextEncoding {
    let run: GoldenRun

    func load() async {}
    func unload() async {}

    func encode(_ tokenIDs: [Int32]) async throws -> Tensor {
        guard let row = run.tokenIDs.firstIndex(of: tokenIDs) else {
            throw S2PError.notRecorded(what: "the features of this text")
        }
        return run.textEmbeddings.rows(row..<row + 1)
    }
}

extension ReplayTextEncoder {
    func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
        guard let row = run.tokenIDs.firstIndex(of: tokenIDs), let pooled = run.pooledText,
            run.secondTokenIDs.indices.contains(row), second == run.secondTokenIDs[row]
        else { throw S2PError.notRecorded(what: "the features of this text") }
        return (run.textEmbeddings.rows(row..<row + 1), pooled.rows(row..<row + 1))
    }
}

struct ReplayTimeTable: TimeTabling {
    let run: GoldenRun

    func load() async {}
    func unload() async {}

    /// Answers for the recorded pooled text and time ids only, bit for bit.
    func timeTable(pooled: Tensor, timeIDs: Tensor) async throws -> Tensor {
        guard pooled == run.pooledText, timeIDs == run.timeIDs, let table = run.timeTable else {
            throw S2PError.notRecorded(what: "the time table of this text and size")
        }
        return table
    }
}

struct ReplayUNet: Denoising {
    let run: GoldenRun

    func load() async {}
    func unload() async {}

    func predict(sample: Tensor, step: Int, embeddings: Tensor, timeTable: Tensor?) async throws -> Tensor {
        guard let output = run.output(ofCall: step) else { throw S2PError.notRecorded(what: "call \(step)") }
        _ = try sample.checked("sample", shape: output.shape)
        _ = try embeddings.checked("encoder_hidden_states", shape: run.textEmbeddings.shape)
        guard timeTable == run.timeTable else { throw S2PError.notRecorded(what: "a call with this time table") }
        return output
    }
}

struct ReplayDecoder: ImageDecoding {
    let run: GoldenRun
    let latents: LatentSpec

    func load() async {}
    func unload() async {}

    /// Answers for the recorded final latents only, up to 1e-4 of rounding by another machine's noise or libm. Of the run that starts
    /// from its picture only the latents are recorded: the run's own picture stands for theirs.
    func decode(_ input: Tensor) async throws -> Tensor {
        let ends = [run.quantizedLatents, run.fromPicture?.latents].compactMap { $0 }.map { decoderInput($0, latents) }
        _ = try input.checked("latents", shape: ends[0].shape)
        guard ends.contains(where: { maximumDifference(input, $0) <= 1e-4 / latents.scalingFactor }) else {
            throw S2PError.notRecorded(what: "the picture of these latents")
        }
        return run.image
    }
}
