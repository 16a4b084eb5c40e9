import Foundation
import Testing

@testable import S2PMobile

/// Bundles that draw several picture sizes, on the toy model. `sizes.safetensors` is what the Python runtime draws with the same model.
@Suite(.timeLimit(.minutes(1))) struct PictureSizeTests {
    private static let second = (width: 32, height: 48)

    /// A bundle of the fixtures with a second size, 32x48, where it has none.
    private static func withSecondSize<Result>(_ name: String, _ body: (ModelBundle) throws -> Result) throws -> Result {
        let source = Fixtures.folder.appendingPathComponent("\(name).s2pmobile")
        let bundle = try ModelBundle(opening: source)
        if bundle.manifest.sizes.count > 1 { return try body(bundle) }
        return try Fixtures.withCopy(of: source) { folder in
            let url = folder.appendingPathComponent(ModelBundle.manifestName)
            try changed(Data(contentsOf: url), sizes: [size(check: bundle.manifest.golden[0].path)]).write(to: url)
            return try body(try ModelBundle(opening: folder))
        }
    }

    private static func size(_ width: Int = 32, _ height: Int = 48, latents: (Int, Int) = (4, 6), check: String) -> [String: Any] {
        [
            "width": width, "height": height, "latent_width": latents.0, "latent_height": latents.1,
            "method": "size_\(width)x\(height)", "check": check,
        ]
    }

    /// A manifest with further sizes.
    private static func changed(_ manifest: Data, sizes: [[String: Any]]) throws -> Data {
        var fields = try #require(JSONSerialization.jsonObject(with: manifest) as? [String: Any])
        fields["sizes"] = [try #require(fields["sizes"] as? [Any])[0]] + sizes
        return try JSONSerialization.data(withJSONObject: fields)
    }

    private func pipeline(_ name: String, _ log: ToyLog = ToyLog(), _ residency: Residency = .resident) throws -> Pipeline {
        try Self.withSecondSize(name) { bundle in
            try Pipeline(bundle: bundle, components: try ComponentSet(toyOf: bundle, log: log), residency: residency)
        }
    }

    private func steps(_ stream: AsyncThrowingStream<Step, any Error>) async throws -> [Step] {
        try await stream.reduce(into: []) { $0.append($1) }
    }

    /// What `drawn_at` of the fixtures starts from.
    private func start(_ width: Int, _ height: Int) -> Picture {
        Picture(width: width, height: height, rgb: (0..<3 * width * height).map { UInt8(7 * $0 % 256) })
    }

    @Test(arguments: ["ancestral", "pooled", "picture"])
    func theSecondSizeIsDrawnAsPythonDrawsIt(_ name: String) async throws {
        let log = ToyLog()
        let pipeline = try pipeline(name, log)
        let manifest = pipeline.drawing.bundle.manifest
        #expect(pipeline.sizes.map { [$0.width, $0.height] } == [[48, 32], [32, 48]] && pipeline.size == (48, 32))
        let run = manifest.golden[0]
        let image = name == "picture" ? start(32, 48) : nil
        let steps = try await steps(pipeline.generate(run.prompt, seed: run.seed, image: image, strength: 0.6, size: pipeline.sizes[1]))
        let expected = try SafetensorsFile(opening: Fixtures.folder.appendingPathComponent("sizes.safetensors")).floats(name)
        #expect(expected.shape == [1, 4, 6, 4])
        let latents = try #require(await log.inputs["latents"])
        // Up to the rounding of this machine's logarithm and cosine in the noise.
        let wanted = try decoderInput(expected, manifest.latents).checked("latents", shape: latents.shape)
        #expect(maximumDifference(latents, wanted) <= 1e-4)
        let picture = try #require(steps.last?.picture)
        #expect(picture.width == 32 && picture.height == 48)
        #expect(steps.compactMap(\.preview).allSatisfy { $0.width == 4 && $0.height == 6 })
        // Time ids are height and width, twice, and a crop of nothing.
        let ids = await log.inputs["time_ids"]?.data
        #expect(ids == (name == "pooled" ? [48, 32, 0, 0, 48, 32, 48, 32, 0, 0, 48, 32] : nil))
        #expect(await log.notes.filter { $0.contains("unet") } == ["load unet.size_32x48"])
        #expect(await log.notes.contains("load vae_encoder.size_32x48") == (name == "picture"))
    }

    /// The toy model here is that of the fixtures: it draws their golden runs, which are of the first size, without being asked for one.
    @Test(arguments: ["ancestral", "pooled", "picture"])
    func theFirstSizeIsDrawnUnlessAsked(_ name: String) async throws {
        let log = ToyLog()
        let pipeline = try pipeline(name, log)
        let bundle = try ModelBundle(opening: Fixtures.folder.appendingPathComponent("\(name).s2pmobile"))
        let golden = try GoldenRun(bundle.manifest.golden[0], in: bundle)
        for size in [nil, pipeline.size] {
            let drawn = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed, size: size)).last?.picture
            #expect(drawn.map { [$0.width, $0.height] } == [48, 32])
            let latents = try #require(await log.inputs["latents"])
            #expect(maximumDifference(latents, decoderInput(golden.fpLatents, bundle.manifest.latents)) <= 1e-4)
        }
        #expect(await log.inputs["time_ids"] == golden.timeIDs)
        #expect(await !log.notes.contains { $0.contains("size_32x48") })
    }

    /// The recorded calls of a further size, which Python checks when it verifies a bundle.
    @Test func functionsAnswerTheRecordedCallsOfTheirSize() async throws {
        let bundle = try ModelBundle(opening: Fixtures.ancestral)
        let file = try SafetensorsFile(opening: bundle.path(try #require(bundle.manifest.sizes[1].check)))
        let parts = try ComponentSet(toyOf: bundle, log: ToyLog()).sized[1]
        try await parts.unet.load()
        try await parts.decoder.load()
        let (sample, text, recorded) = (try file.floats("sample"), try file.floats("text_embeddings"), try file.floats("noise_pred"))
        let calls = try file.int32s("noise_pred_calls").data
        #expect(calls == [0, 3])
        for (place, call) in calls.enumerated() {
            let output = try await parts.unet.predict(sample: sample, step: Int(call), embeddings: text)
            let row = recorded.rows(place..<place + 1)
            // They are rounded to multiples of 1/64.
            #expect(maximumDifference(output, Tensor(shape: output.shape, data: row.data)) <= 1.0 / 128)
        }
        #expect(try await parts.decoder.decode(file.floats("latents")) == file.floats("image"))
        // A function takes nothing of another size.
        let flat = Tensor(shape: [1, 4, 4, 6], data: sample.data)
        let error = await #expect(throws: S2PError.self) { try await parts.unet.predict(sample: flat, step: 0, embeddings: text) }
        #expect(error?.kind == "shape_mismatch")
    }

    /// Two sizes in memory would be twice the model.
    @Test func programsOfAnotherSizeAreLetGo() async throws {
        let log = ToyLog()
        let pipeline = try pipeline("picture", log)
        _ = try await steps(pipeline.generate("a cat", seed: 1, image: start(48, 32)))
        await log.forget()
        _ = try await steps(pipeline.generate("a cat", seed: 1, size: Self.second))
        #expect(await log.notes == [
            "unload vae_encoder", "unload unet", "unload vae_decoder", "load unet.size_32x48", "load vae_decoder.size_32x48",
        ])
        await log.forget()
        _ = try await steps(pipeline.generate("a hat", seed: 2, size: Self.second))
        #expect(await log.notes == [])
        _ = try await steps(pipeline.generate("a hat", seed: 2))
        #expect(await log.notes == ["unload unet.size_32x48", "unload vae_decoder.size_32x48", "load unet", "load vae_decoder"])
        #expect(await log.mostSizes == 1)
        await pipeline.unload()
        #expect(await log.alive.isEmpty)
    }

    @Test func stagedProgramsAreLoadedForTheirPart() async throws {
        let log = ToyLog()
        let pipeline = try pipeline("ancestral", log, .staged)
        _ = try await steps(pipeline.generate("a cat", seed: 1, size: Self.second))
        #expect(await log.notes == [
            "load text_encoder", "unload text_encoder", "load unet.size_32x48", "unload unet.size_32x48",
            "load vae_decoder.size_32x48", "unload vae_decoder.size_32x48",
        ])
    }

    /// A device specialises each function for itself.
    @Test func everySizeIsMadeReady() async throws {
        let log = ToyLog()
        try await pipeline("ancestral", log).prewarm()
        let loaded = await log.notes.filter { $0.hasPrefix("load") }
        #expect(loaded == [
            "load text_encoder", "load unet", "load vae_decoder", "load unet.size_32x48", "load vae_decoder.size_32x48",
        ])
        #expect(await log.alive.isEmpty)
    }

    @Test func whatCannotBeDrawnIsToldInOneLine() async throws {
        let log = ToyLog()
        let pipeline = try pipeline("picture", log)
        let cases: [((width: Int, height: Int), Picture?, String)] = [
            ((64, 64), nil, "picture draws 48x32, 32x48, not 64x64; choose one of these, or convert again with --size 64x64"),
            ((0, -1), nil, "picture draws 48x32, 32x48, not 0x-1; choose one of these, or convert again with --size 0x-1"),
            (
                Self.second, start(48, 32),
                "the picture to start from is 48x32 pixels, not 32x48; scale it to what picture draws"
            ),
            (pipeline.size, start(32, 48), "the picture to start from is 32x48 pixels, not 48x32; scale it to what picture draws"),
        ]
        for (size, image, line) in cases {
            let error = await #expect(throws: S2PError.self) {
                try await steps(pipeline.generate("a cat", seed: 1, image: image, size: size))
            }
            #expect(error?.description == line && error?.kind == "usage")
        }
        #expect(await log.notes.isEmpty)
    }

    /// Golden runs are of the first size.
    @Test func aReplayDrawsTheFirstSizeAlone() async throws {
        let bundle = try ModelBundle(opening: Fixtures.ancestral)
        let pipeline = try Pipeline(bundle: bundle, components: try Replay.components(of: bundle), residency: .resident)
        let error = await #expect(throws: S2PError.self) {
            try await steps(pipeline.generate(bundle.manifest.golden[0].prompt, seed: 3, size: Self.second))
        }
        #expect(error?.description == "the golden run does not hold pictures of 32x48; replay only its own prompt and seed")
    }

    /// What no memory holds is refused with the manifest, before anything is made of it.
    @Test func impossibleSizesAreRefused() throws {
        let manifest = try Fixtures.data("ancestral.s2pmobile/manifest.json")
        let check = "golden/size-32x48.safetensors"
        let good = try Self.changed(manifest, sizes: [Self.size(check: check)])
        #expect(try decodeContract(BundleManifest.self, from: good, name: "m").sizes.count == 2)
        let cases: [([String: Any], String)] = [
            (Self.size(latents: (65_536, 65_536), check: check), "sizes.1: latents are more than 67108864 numbers"),
            (Self.size(latents: (65_537, 1), check: check), "sizes.1: latents must be from 1 to 65536"),
            (Self.size(1 << 40, 1 << 40, check: check), "components.vae_decoder.image.shape: is no shape of an array at 1099511627776x1099511627776"),
        ]
        for (size, line) in cases {
            let data = try Self.changed(manifest, sizes: [size])
            let error = thrownError { _ = try decodeContract(BundleManifest.self, from: data, name: "m") }
            #expect(error?.kind == "invalid" && error?.description.contains(line) == true, "\(String(describing: error))")
        }
    }

    @Test func tensorsOfTextStayAsTheyAre() throws {
        let manifest = try ModelBundle(opening: Fixtures.ancestral).manifest
        func shapes(_ component: String) throws -> [[Int]] {
            let spec = try #require(manifest.components[component]).resized(to: manifest.sizes[1])
            return (spec.inputs + spec.outputs).map(\.shape)
        }
        #expect(try shapes("unet") == [[1, 4, 6, 4], [1], [1, 16, 8], [1, 4, 6, 4]])
        #expect(try shapes("vae_decoder") == [[1, 4, 6, 4], [1, 3, 48, 32]])
        #expect(try shapes("text_encoder") == [[1, 16], [1, 16, 8]])
        for component in manifest.components.values { #expect(component.resized(to: manifest.sizes[0]) == component) }
    }
}
