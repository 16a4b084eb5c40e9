import Foundation
import Testing

@testable import S2PMobile

/// Drawings that start from a picture, on a golden run that recorded one.
@Suite(.timeLimit(.minutes(1))) struct PictureStartTests {
    private let bundle: ModelBundle
    private let golden: GoldenRun
    private let recorded: RecordedStart
    /// What was encoded: the run's own picture in 8 bits.
    private let picture: Picture

    init() throws {
        bundle = try ModelBundle(opening: Fixtures.picture)
        golden = try Replay.recordedRun(of: bundle)
        recorded = try #require(golden.fromPicture)
        picture = try Picture(golden.image)
    }

    /// A replay that keeps what U-Net and decoder are given, and decodes whatever comes.
    private actor Studio: Denoising, ImageDecoding {
        let golden: GoldenRun
        var samples: [(call: Int, sample: Tensor)] = []
        var latents: Tensor?

        init(_ golden: GoldenRun) { self.golden = golden }

        func load() async throws {}
        func unload() async {}

        func predict(sample: Tensor, step: Int, embeddings: Tensor, timeTable: Tensor?) async throws -> Tensor {
            samples.append((step, sample))
            return try #require(golden.output(ofCall: step))
        }

        func decode(_ latents: Tensor) async throws -> Tensor {
            self.latents = latents
            return golden.image
        }
    }

    private func pipeline(_ studio: Studio) throws -> Pipeline {
        let replay = try Replay.components(of: bundle)
        let set = ComponentSet(
            encoder: replay.encoder, textEncoder: replay.textEncoder, unet: studio, decoder: studio, describe: replay.describe
        )
        return try Pipeline(bundle: bundle, components: set, residency: .resident)
    }

    private func pipeline(_ instrument: Instrument, _ residency: Residency) throws -> Pipeline {
        try Pipeline(bundle: bundle, components: instrument.wrap(Replay.components(of: bundle)), residency: residency)
    }

    private func steps(_ stream: AsyncThrowingStream<Step, any Error>) async throws -> [Step] {
        try await stream.reduce(into: []) { $0.append($1) }
    }

    private func relativeError(_ value: Tensor, _ reference: Tensor) -> Double {
        let difference = zip(value.data, reference.data).reduce(0) { $0 + pow(Double($1.0) - Double($1.1), 2) }
        return (difference / reference.data.reduce(0) { $0 + pow(Double($1), 2) }).squareRoot()
    }

    @Test func endsWhereTheGoldenPictureLeads() async throws {
        let studio = Studio(golden)
        let pipeline = try pipeline(studio)
        #expect(pipeline.startsFromPictures && recorded.step == 2)
        let steps = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed, image: picture, strength: 0.6))
        let latents = try #require(await studio.latents)
        #expect(relativeError(latents, decoderInput(recorded.latents, bundle.manifest.latents)) <= 1e-6)
        #expect(await studio.samples.map(\.call) == [2, 3, 4, 5])
        // A fraction goes from 0 to 1 over the calls that are made.
        #expect(steps.map(\.stage) == [.encoding, .reading] + [Step.Stage](repeating: .drawing, count: 5) + [.decoding, .finished])
        #expect(steps.map(\.fraction) == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1] && steps.allSatisfy { $0.calls == 4 })
        #expect(steps.compactMap(\.preview).count == 4 && steps.last?.picture == picture)
    }

    /// Nothing but the replay: it knows both ends of its run, and no other.
    @Test func theReplayDrawsFromItsPicture() async throws {
        let drawing = try ImagePipeline(
            bundle: bundle, components: Replay.components(of: bundle), residency: .resident, clock: ManualClock()
        )
        var request = DrawingRequest(prompt: golden.spec.prompt, seed: golden.spec.seed, image: FromPicture(picture, strength: 0.6))
        let drawn = try await drawing.draw(request)
        #expect(relativeError(drawn.latents, recorded.latents) <= 1e-6 && drawn.image == golden.image)
        #expect(relativeError(drawn.latents, golden.quantizedLatents) > 0.01)
        request.image?.strength = 0.8
        let end = await #expect(throws: S2PError.self) { try await drawing.draw(request) }
        #expect(end?.description.contains("the picture of these latents") == true)
        var bytes = picture.rgb
        bytes[7] ^= 1
        request.image = FromPicture(Picture(width: picture.width, height: picture.height, rgb: bytes), strength: 0.6)
        let other = await #expect(throws: S2PError.self) { try await drawing.draw(request) }
        #expect(other?.description.contains("the latents of this picture") == true)
        #expect(try GoldenRun(bundle.manifest.golden[1], in: bundle).fromPicture == nil)
    }

    /// With the plan's own rows in place of the start's the same run ends elsewhere.
    @Test func theRowsOfAStartAreOthers() async throws {
        let start = try #require(bundle.manifest.imageStarts)[recorded.step]
        let bare = ImageStart(call: start.call, latents: start.latents, noise: start.noise, rows: [])
        let encoded = try encodedLatents(recorded.moments, bundle.manifest.latents)
        for (begin, isRight) in [(start, true), (bare, false)] {
            let sampler = Sampler(plan: bundle.manifest.plan, start: begin)
            let end = try await sampler.denoise(from: begin.state(of: encoded, seed: golden.spec.seed), seed: golden.spec.seed) { _, call in
                guided(try #require(golden.output(ofCall: call)), guidance: bundle.manifest.guidance)
            }
            let error = relativeError(end, recorded.latents)
            #expect(isRight ? error <= 1e-6 : error > 0.01)
        }
    }

    /// At strength 1 all calls are made, from the picture and much noise.
    @Test func atStrengthOneEveryCallIsMade() async throws {
        let studio = Studio(golden)
        let steps = try await steps(
            try pipeline(studio).generate(golden.spec.prompt, seed: golden.spec.seed, image: picture, strength: 1)
        )
        #expect(await studio.samples.map(\.call) == [0, 1, 2, 3, 4, 5] && steps.allSatisfy { $0.calls == 6 })
        let start = try #require(bundle.manifest.imageStarts?.first)
        let noise = Philox.gaussian(seed: golden.spec.seed, shape: [1, 4, 4, 6])
        let (mean, std): ([Float], [Float]) = ([-1.5, 1.75, -1.25, 2.5], [8.5, 6.0, 6.5, 5.25])
        let state = (0..<96).map { place in
            let encoded: Float = (recorded.moments.data[place] - 0.125 - mean[place / 24]) / std[place / 24] * 0.5
            return Float(start.latents * Double(encoded) + start.noise * Double(noise.data[place]))
        }
        #expect(await studio.samples.first?.sample == Tensor(shape: [2, 4, 4, 6], data: state + state))
    }

    @Test(arguments: [(1, 0), (0.99, 1), (0.8, 1), (0.6, 2), (0.59, 3), (0.39, 4), (0.2, 4)])
    func strengthsAreCountedInDoubleAndCutOff(_ strength: Double, _ skipped: Int) throws {
        #expect(try bundle.manifest.plan.skippedSteps(strength: strength) == skipped)
        // 100 * 0.29 is a little less than 29 in double, and 29 in float32.
        #expect(try plan(steps: 100).skippedSteps(strength: 0.29) == 72)
    }

    private func plan(steps: Int) -> SamplingPlan {
        SamplingPlan(scheduler: "s", steps: steps, predictionType: "epsilon", initialScale: 1, calls: [])
    }

    /// What the message gives as the least is enough.
    @Test func theLeastStrengthLeavesAStep() throws {
        for steps in 1...1000 {
            let error = try #require(thrownError { _ = try plan(steps: steps).skippedSteps(strength: 1e-9) })
            let words = error.remedy.split(separator: " ")
            let least = try #require(Double(words[1]))
            #expect(error.remedy == "give \(least) or more" && thrownError { _ = try plan(steps: steps).skippedSteps(strength: least) } == nil)
        }
    }

    @Test func whatCannotBeStartedFromIsToldInOneLine() async throws {
        let instrument = Instrument { _ in }
        let pipeline = try pipeline(instrument, .resident)
        let tall = Picture(width: 32, height: 48, rgb: picture.rgb)
        let cases: [(Picture, Double, String)] = [
            (picture, 0, "strength 0.0 is out of range; give a number above 0, at most 1"),
            (picture, 1.01, "strength 1.01 is out of range; give a number above 0, at most 1"),
            (picture, .nan, "strength nan is out of range; give a number above 0, at most 1"),
            (picture, 0.19, "strength 0.19 leaves none of 5 steps; give 0.2 or more"),
            (tall, 0.6, "the picture to start from is 32x48 pixels, not 48x32; scale it to what picture draws"),
        ]
        for (image, strength, line) in cases {
            let error = await #expect(throws: S2PError.self) {
                try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed, image: image, strength: strength))
            }
            #expect(error?.description == line && error?.kind == "usage")
        }
        #expect(instrument.notes.isEmpty)
        // From noise a strength means nothing.
        let drawn = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed, strength: 2))
        #expect(drawn.last?.picture == picture)
    }

    @Test func anEncoderIsReleasedBeforeTheUNetIsLoaded() async throws {
        let instrument = Instrument { _ in }
        let pipeline = try pipeline(instrument, .staged)
        _ = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed, image: picture, strength: 0.6))
        #expect(instrument.notes == [
            "load vae_encoder", "encode picture", "unload vae_encoder", "load text_encoder", "encode", "encode", "unload text_encoder",
            "load unet", "predict", "predict", "predict", "predict", "unload unet", "load vae_decoder", "decode", "unload vae_decoder",
        ])
    }

    /// A drawing from noise does not touch it; whoever makes the device ready wants it compiled, too.
    @Test func anEncoderIsLoadedForPicturesAndAhead() async throws {
        let instrument = Instrument { _ in }
        let pipeline = try pipeline(instrument, .resident)
        _ = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed))
        #expect(!instrument.notes.contains { $0.contains("vae_encoder") || $0 == "encode picture" })
        _ = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed, image: picture, strength: 0.6))
        #expect(instrument.count("load vae_encoder") == 1 && instrument.count("unload vae_encoder") == 0)
        await pipeline.unload()
        #expect(instrument.count("unload vae_encoder") == 1)
        try await pipeline.prewarm()
        #expect(instrument.count("load vae_encoder") == 2 && instrument.count("unload vae_encoder") == 2)
    }

    /// A golden run that starts where the bundle has no start.
    @Test func anImpossibleStartIsRefused() throws {
        try Fixtures.withCopy(of: Fixtures.picture) { folder in
            let (golden, manifest) = (folder.appendingPathComponent("golden/first.safetensors"), folder.appendingPathComponent("manifest.json"))
            var content = try Data(contentsOf: golden)
            let before = SHA256Digest.hex(of: content)
            let header = content.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
            let entry = try #require(SafetensorsFile(opening: golden).entries["from_picture_step"])
            #expect(content[8 + header + entry.range.lowerBound] == 2)
            content[8 + header + entry.range.lowerBound] = 5
            try content.write(to: golden)
            let text = try String(contentsOf: manifest, encoding: .utf8)
            #expect(text.contains(before))
            try Data(text.replacingOccurrences(of: before, with: SHA256Digest.hex(of: content)).utf8).write(to: manifest)
            let error = thrownError { _ = try Replay.recordedRun(of: try ModelBundle(opening: folder)) }
            #expect(error?.kind == "no_golden_run" && error?.description.contains("first starts at an impossible step") == true)
        }
    }

    /// An engine without an encoder for a bundle that has one says so.
    @Test func aBackendWithoutAnEncoderSaysSo() async throws {
        let replay = try Replay.components(of: bundle)
        let set = ComponentSet(textEncoder: replay.textEncoder, unet: replay.unet, decoder: replay.decoder, describe: replay.describe)
        let pipeline = try Pipeline(bundle: bundle, components: set, residency: .resident)
        let error = await #expect(throws: S2PError.self) { try await steps(pipeline.generate("a", seed: 1, image: picture)) }
        #expect(error?.description.hasPrefix("vae_encoder cannot run on this device") == true)
    }

    @Test func anEncoderThatOverflowsIsNamed() async throws {
        let instrument = Instrument { _ in }
        instrument.encoded = { Tensor(shape: $0.shape, data: $0.data.map { _ in .infinity }) }
        let pipeline = try pipeline(instrument, .staged)
        let error = await #expect(throws: S2PError.self) {
            try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed, image: picture, strength: 0.6))
        }
        #expect(error?.description.hasPrefix("vae_encoder cannot run on this device") == true)
        #expect(instrument.notes == ["load vae_encoder", "encode picture", "unload vae_encoder"])
    }

    @Test func bytesBecomeWhatAnEncoderTakes() throws {
        let input = encoderInput(Picture(width: 2, height: 1, rgb: [0, 51, 255, 102, 1, 254]))
        let (one, most): (Double, Double) = (2.0 / 255 - 1, 508.0 / 255 - 1)
        let expected: [Float] = [-1, -0.2, -0.6, Float(one), 1, Float(most)]
        #expect(input == Tensor(shape: [1, 3, 1, 2], data: expected))
        let small = Tensor(shape: [1, 4, 4, 6], data: [Float](repeating: 0, count: 96))
        #expect(thrownError { _ = try encodedLatents(small, bundle.manifest.latents) }?.kind == "shape_mismatch")
    }

    /// A plan small enough to follow by hand: rows of the start, then of the plan, and the fresh noise of their calls.
    @Test func aRunBegunLaterTakesTheRowsOfItsStart() async throws {
        func row(_ states: [(Int, Double)], _ outputs: [(Int, Double)], noise: Double = 0) -> PlanCall {
            let terms: ([(Int, Double)]) -> [Term] = { $0.map { Term(index: $0.0, coefficient: $0.1) } }
            return PlanCall(timestep: 0, inputScale: 0.5, states: terms(states), outputs: terms(outputs), noise: noise)
        }
        let calls = [row([(0, 2)], [(0, 1)]), row([(0, 1)], [(1, 0.5), (0, -1)]), row([(1, 1), (2, 4)], [(2, 8)], noise: 1)]
        let plan = SamplingPlan(scheduler: "s", steps: 3, predictionType: "epsilon", initialScale: 1, calls: calls)
        let start = ImageStart(call: 1, latents: 1, noise: 0, rows: [row([(1, 3)], [(1, 2)])])
        // The model answers scaled sample + index, so by hand:
        // x1 = 4: e1 = 2 + 1 = 3, x2 = 12 + 6 = 18; e2 = 9 + 2 = 11, x3 = 4 + 72 + 88 = 164, and noise of stream 3.
        var made: [Int] = []
        let final = try await Sampler(plan: plan, start: start).denoise(from: Tensor(shape: [1, 1, 1, 1], data: [4]), seed: 9) { sample, call in
            made.append(call)
            return Tensor(shape: sample.shape, data: [sample.data[0] + Float(call)])
        }
        let fresh = Philox.gaussian(seed: 9, shape: [1, 1, 1, 1], stream: 3)
        #expect(made == [1, 2] && final.data == [Float(164 + Double(fresh.data[0]))])
    }
}
