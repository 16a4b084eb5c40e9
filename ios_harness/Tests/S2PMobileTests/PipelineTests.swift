import Foundation
import Testing

@testable import S2PMobile

/// The public pipeline, on replays of golden runs.
@Suite(.timeLimit(.minutes(1))) struct PipelineTests {
    private func pipeline(_ folder: URL = Fixtures.replay, residency: Residency = .resident, instrument: Instrument? = nil) throws -> Pipeline {
        let bundle = try ModelBundle(opening: folder)
        let replay = try Replay.components(of: bundle)
        return try Pipeline(bundle: bundle, components: instrument?.wrap(replay) ?? replay, residency: residency)
    }

    private func steps(_ stream: AsyncThrowingStream<Step, any Error>) async throws -> [Step] {
        try await stream.reduce(into: []) { $0.append($1) }
    }

    @Test func drawsTheGoldenPictureAndTellsHowFarItIs() async throws {
        let pipeline = try pipeline()
        let golden = try Replay.recordedRun(of: pipeline.drawing.bundle)
        let steps = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed))
        #expect(pipeline.name == "replay" && pipeline.callCount == 6 && pipeline.takesNegativePrompts)
        #expect(steps.map(\.stage) == [.reading, .drawing] + [Step.Stage](repeating: .drawing, count: 6) + [.decoding, .finished])
        #expect(steps.map(\.call) == [0, 0, 1, 2, 3, 4, 5, 6, 6, 6] && steps.allSatisfy { $0.calls == 6 })
        #expect(steps.last?.fraction == 1 && steps.dropLast().allSatisfy { $0.picture == nil })
        #expect(steps.last?.picture == (try Picture(golden.image)))
        #expect(try #require(steps.last?.picture).width == pipeline.size.width)
    }

    /// Behind each call there is a small picture. The last one is near the true picture, as a mean over its pixels.
    @Test func previewsComeNearThePicture() async throws {
        let pipeline = try pipeline()
        let golden = try Replay.recordedRun(of: pipeline.drawing.bundle)
        let previews = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed)).compactMap(\.preview)
        #expect(previews.count == 6 && previews.allSatisfy { $0.width == 8 && $0.height == 8 })
        let picture = try Picture(golden.image)
        let side = picture.width / 8
        let small = (0..<8).flatMap { y in
            (0..<8).flatMap { x in
                (0..<3).map { channel in
                    let levels = (0..<side * side).map { pixel in
                        Double(picture.rgb[3 * ((y * side + pixel / side) * picture.width + x * side + pixel % side) + channel])
                    }
                    return levels.reduce(0, +) / Double(side * side)
                }
            }
        }
        func error(_ preview: Picture) -> Double {
            let sum = zip(preview.rgb, small).reduce(0) { $0 + (Double($1.0) - $1.1) * (Double($1.0) - $1.1) }
            return (sum / Double(small.count)).squareRoot()
        }
        let grey = error(Picture(width: 8, height: 8, rgb: [UInt8](repeating: 128, count: 192)))
        // Least squares are never worse than a constant on what they were fitted to.
        #expect(error(previews[5]) < grey)
    }

    @Test func stopsAtTheNextCallWhenItsReaderIsCancelled() async throws {
        let instrument = Instrument { _ in }
        let pipeline = try pipeline(residency: .staged, instrument: instrument)
        let golden = try Replay.recordedRun(of: pipeline.drawing.bundle)
        let reader = AsyncStream<Task<Void, any Error>>.makeStream()
        instrument.atCall = { call in
            guard call == 2 else { return }
            let waiting = DispatchSemaphore(value: 0)
            Task {
                for await task in reader.stream { task.cancel() }
                waiting.signal()
            }
            waiting.wait()
        }
        let task = Task {
            for try await _ in pipeline.generate(golden.spec.prompt, seed: golden.spec.seed) {}
            try Task.checkCancellation()
        }
        reader.continuation.yield(task)
        reader.continuation.finish()
        await #expect(throws: CancellationError.self) { try await task.value }
        // The next drawing waits for the cancelled one to end, and finds everything released.
        instrument.atCall = { _ in }
        let steps = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed))
        #expect(steps.last?.picture != nil)
        // Three calls of the cancelled drawing, six of the second one.
        #expect(instrument.count("predict") == 9 && instrument.count("unload unet") == 2)
    }

    @Test func oneIsDrawnAtATime() async throws {
        let pipeline = try pipeline()
        let golden = try Replay.recordedRun(of: pipeline.drawing.bundle)
        try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<4 {
                group.addTask { try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed)).count }
            }
            for try await count in group { #expect(count == 10) }
        }
    }

    @Test func turnsComeInOrderAndAreLeftWhenCancelled() async throws {
        let turn = Turn()
        try await turn.take()
        let second = Task { try await turn.take() }
        second.cancel()
        await #expect(throws: CancellationError.self) { try await second.value }
        let third = Task { try await turn.take() }
        await turn.give()
        try await third.value
        await turn.give()
        try await turn.take()
    }

    @Test func releasesWhatItIsToldTo() async throws {
        let instrument = Instrument { _ in }
        let pipeline = try pipeline(instrument: instrument)
        let golden = try Replay.recordedRun(of: pipeline.drawing.bundle)
        try await pipeline.prewarm()
        #expect(["text_encoder", "unet", "vae_decoder"].allSatisfy { instrument.count("load \($0)") == 1 && instrument.count("unload \($0)") == 1 })
        _ = try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed))
        #expect(instrument.count("unload unet") == 1)
        await pipeline.unload()
        #expect(instrument.count("unload unet") == 2)
    }

    @Test func aNegativePromptTakesThePlaceOfTheEmptyText() throws {
        let drawing = try pipeline().drawing
        let rows = drawing.tokenIDs("a cat", negativePrompt: "a hat")
        #expect(rows == drawing.tokenIDs("a hat").suffix(1) + drawing.tokenIDs("a cat").suffix(1))
        #expect(drawing.tokenIDs("a cat").first == drawing.tokenIDs("").first)
    }

    /// Zeros stand for the empty text alone (SDXL): a negative prompt is encoded.
    @Test func aNegativePromptIsEncodedWhereZerosStandForNone() async throws {
        let bundle = try ModelBundle(opening: Fixtures.pooled)
        let log = TextLog()
        let replay = try Replay.components(of: bundle)
        let set = ComponentSet(
            textEncoder: log, timeTable: replay.timeTable, unet: replay.unet, decoder: replay.decoder, describe: replay.describe
        )
        let pipeline = try ImagePipeline(bundle: bundle, components: set, residency: .resident, clock: ManualClock())
        // The table of another text is not recorded, so the drawing ends behind the texts.
        _ = try? await pipeline.draw(DrawingRequest(prompt: "a cat", seed: 1))
        #expect(await log.texts.count == 1)
        _ = try? await pipeline.draw(DrawingRequest(prompt: "a cat", negativePrompt: "a hat", seed: 1))
        #expect(await log.texts.count == 3)
    }

    private actor TextLog: TextEncoding {
        var texts: [[Int32]] = []
        func load() async throws {}
        func unload() async {}
        func encode(_ tokenIDs: [Int32]) async throws -> Tensor { Tensor(shape: [1, 1, 1], data: [0]) }
        func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
            texts.append(tokenIDs)
            return (Tensor(shape: [1, 16, 8], data: [Float](repeating: 0, count: 128)), Tensor(shape: [1, 8], data: [Float](repeating: 0, count: 8)))
        }
    }

    @Test func whatCannotBeDrawnIsToldInOneLine() async throws {
        let picture = Picture(width: 1, height: 1, rgb: [0, 0, 0])
        let plain = try pipeline(Fixtures.ancestral)
        let guided = try pipeline()
        let cases: [(AsyncThrowingStream<Step, any Error>, String)] = [
            (plain.generate("a cat", negativePrompt: "a hat"), "a negative prompt has no effect at guidance 1.0; leave it out"),
            (
                guided.generate("a cat", image: picture),
                "replay has no VAE encoder, so it cannot start from a picture; convert with --image-to-image, or leave the picture out"
            ),
        ]
        for (stream, message) in cases {
            let error = await #expect(throws: S2PError.self) { try await steps(stream) }
            #expect(error?.description.hasPrefix(message) == true, "\(String(describing: error))")
        }
    }

    @Test func picturesThatAreNotFiniteAreRefused() async throws {
        let instrument = Instrument { _ in }
        instrument.decoded = { Tensor(shape: $0.shape, data: $0.data.map { _ in .nan }) }
        let pipeline = try pipeline(instrument: instrument)
        let golden = try Replay.recordedRun(of: pipeline.drawing.bundle)
        await #expect(throws: S2PError.self) { try await steps(pipeline.generate(golden.spec.prompt, seed: golden.spec.seed)) }
    }

    /// There is no engine on this machine: the bundle's target is named.
    @Test func withoutAnEngineABundleIsRefused() async throws {
        #if os(Linux)
        let error = await #expect(throws: S2PError.self) { try await Pipeline(bundle: Fixtures.replay) }
        #expect(error?.description.hasPrefix("replay.s2pmobile is a bundle for coreml; this app runs nothing but replays") == true)
        #endif
    }
}

/// Compiled programs, with a folder in the place of Core ML.
@Suite struct CompiledModelCacheTests {
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("cache-\(UUID().uuidString)")

    private func compile(_ text: String) -> (URL) async throws -> URL {
        { [folder] _ in
            let place = folder.appendingPathComponent("fresh-\(UUID().uuidString)")
            try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
            try Data(text.utf8).write(to: place.appendingPathComponent("program"))
            return place
        }
    }

    @Test func compilesOnceAndRemembersWhatTheFirstLoadTook() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let cache = CompiledModelCache(folder: folder, system: "18.1.0")
        #expect(cache.existing(key: "a") == nil && cache.firstLoad(key: "a", unit: .gpu) == nil)
        let place = try await cache.compiledModel(of: folder, key: "a", compile: compile("first"))
        #expect(try await cache.compiledModel(of: folder, key: "a", compile: compile("second")) == place)
        #expect(try Data(contentsOf: place.appendingPathComponent("program")) == Data("first".utf8))
        cache.note(firstLoad: 1234, key: "a", unit: .gpu)
        cache.note(firstLoad: 5, key: "a", unit: .gpu)
        // Another launch.
        let later = CompiledModelCache(folder: folder, system: "18.1.0")
        #expect(later.firstLoad(key: "a", unit: .gpu)?.first == 1234 && later.firstLoad(key: "a", unit: .all)?.first == nil)
        #expect((later.firstLoad(key: "a", unit: .gpu)?.compile ?? -1) >= 0)
        // Each function is specialised for itself.
        #expect(later.firstLoad(key: "a", unit: .gpu, function: "size_64x48")?.first == nil)
        later.note(firstLoad: 77, key: "a", unit: .gpu, function: "size_64x48")
        #expect(later.firstLoad(key: "a", unit: .gpu, function: "size_64x48")?.first == 77)
        #expect(later.firstLoad(key: "a", unit: .gpu)?.first == 1234)
        // Another system compiles anew.
        #expect(CompiledModelCache(folder: folder, system: "18.2.0").existing(key: "a") == nil)
    }

    @Test func whatIsOldOrOfAnotherSystemGoes() async throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let old = CompiledModelCache(folder: folder, system: "18.1.0"), new = CompiledModelCache(folder: folder, system: "18.2.0")
        _ = try await old.compiledModel(of: folder, key: "a", compile: compile("a"))
        _ = try await new.compiledModel(of: folder, key: "a", compile: compile("a"))
        _ = try await new.compiledModel(of: folder, key: "b", compile: compile("b"))
        let unused = try #require(new.existing(key: "b")).path
        let long = Date().addingTimeInterval(-CompiledModelCache.keptSeconds - 60)
        try FileManager.default.setAttributes([.modificationDate: long], ofItemAtPath: unused)
        new.prune(now: Date())
        #expect(old.existing(key: "a") == nil && new.existing(key: "b") == nil && new.existing(key: "a") != nil)
        #expect(new.firstLoad(key: "a", unit: .gpu) != nil)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["a-18.2.0.json", "a-18.2.0.mlmodelc"])
    }
}
