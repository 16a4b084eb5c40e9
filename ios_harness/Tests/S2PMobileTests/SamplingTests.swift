import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

@Suite struct PhiloxTests {
    /// Known answers of Random123 (kat_vectors, philox4x32 10).
    @Test func knownAnswers() {
        #expect(Philox.block(counter: SIMD4(repeating: 0), key: SIMD2(repeating: 0)) == SIMD4(0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8))
        #expect(Philox.block(counter: SIMD4(repeating: .max), key: SIMD2(repeating: .max)) == SIMD4(0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD))
        let pi = SIMD4<UInt32>(0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344)
        #expect(Philox.block(counter: pi, key: SIMD2(0xA409_3822, 0x299F_31D0)) == SIMD4(0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1))
    }

    /// Bit for bit where the C library rounds as numpy's does (glibc); elsewhere one unit in the last place is allowed.
    @Test func noiseIsPythons() throws {
        let file = try SafetensorsFile(opening: Fixtures.folder.appendingPathComponent("noise.safetensors"))
        #expect(file.entries.count == 7)
        for name in file.entries.keys {
            let parts = name.split(separator: ",").compactMap { $0.split(separator: "=").last }
            let seed = try #require(UInt64(parts[0]))
            let stream = try #require(UInt32(parts[1]))
            let expected = try file.floats(name)
            let mine = Philox.gaussian(seed: seed, shape: expected.shape, stream: stream)
            #if os(Linux)
            #expect(mine == expected)
            #else
            #expect(zip(mine.data, expected.data).allSatisfy { abs($0 - $1) <= $1.ulp })
            #endif
        }
    }
}

@Suite struct SamplerTests {
    /// A plan small enough to follow by hand; every coefficient is exact in binary.
    @Test func rowsReachBack() async throws {
        func call(_ states: [(Int, Double)], _ outputs: [(Int, Double)]) throws -> PlanCall {
            let terms: ([(Int, Double)]) -> String = { "[" + $0.map { "[\($0.0),\($0.1)]" }.joined(separator: ",") + "]" }
            let text = #"{"timestep":0,"input_scale":0.5,"states":\#(terms(states)),"outputs":\#(terms(outputs)),"noise":0}"#
            return try JSONDecoder().decode(PlanCall.self, from: Data(text.utf8))
        }
        let calls = [try call([(0, 2)], [(0, 1)]), try call([(0, 1)], [(1, 0.5), (0, -1)]), try call([(1, 1), (2, 4)], [(0, 8)])]
        let plan = SamplingPlan(scheduler: "s", steps: 3, predictionType: "epsilon", initialScale: 3, calls: calls)
        // The model answers scaled sample + index, so by hand:
        // x0 = 4: e0 = 2 + 0 = 2, x1 = 8 + 2 = 10; e1 = 5 + 1 = 6, x2 = 4 + 3 - 2 = 5; x3 = 10 + 20 + 16 = 46.
        let final = try await Sampler(plan: plan).denoise(from: Tensor(shape: [1, 1, 1, 1], data: [4]), seed: 0) { sample, index in
            Tensor(shape: sample.shape, data: [sample.data[0] + Float(index)])
        }
        #expect(final.data == [46])
        let noise = Philox.gaussian(seed: 9, shape: [1, 1, 1, 2])
        #expect(Sampler(plan: plan).initialLatents(seed: 9, shape: [1, 1, 1, 2]).data == noise.data.map { 3 * $0 })
    }

    /// The recorded call at another size: its sample is noise, its latents are what the decoder takes of that noise.
    @Test func decoderTakesTheStatisticsOfEveryChannel() throws {
        let spec = try ModelBundle(opening: Fixtures.ancestral).manifest.latents
        let file = try SafetensorsFile(opening: Fixtures.ancestral.appendingPathComponent("golden/size-32x48.safetensors"))
        #expect(spec.mean != nil && spec.std != nil)
        #expect(decoderInput(try file.floats("sample"), spec) == (try file.floats("latents")))
    }

    @Test func guidanceMixesTheBatch() {
        let outputs = Tensor(shape: [2, 1, 1, 2], data: [1, 2, 3, -2])
        #expect(guided(outputs, guidance: 4) == Tensor(shape: [1, 1, 1, 2], data: [9, -14]))
        #expect(guided(outputs.rows(0..<1), guidance: 4) == outputs.rows(0..<1))
    }

    @Test(arguments: [Fixtures.replay, Fixtures.ancestral])
    func replayEndsInTheRecordedLatents(_ folder: URL) async throws {
        let bundle = try ModelBundle(opening: folder)
        let golden = try Replay.recordedRun(of: bundle)
        let pipeline = try ImagePipeline(
            bundle: bundle, components: Replay.components(of: bundle), residency: .resident, clock: SystemClock()
        )
        #expect(pipeline.tokenIDs(golden.spec.prompt) == golden.tokenIDs)
        let initial = Sampler(plan: bundle.manifest.plan).initialLatents(seed: golden.spec.seed, shape: bundle.manifest.latents.shape)
        #expect(maximumDifference(initial, golden.initialLatents) <= 1e-6)
        let drawing = try await pipeline.draw(golden.spec.prompt, seed: golden.spec.seed)
        #expect(maximumDifference(drawing.latents, golden.quantizedLatents) <= 1e-5)
        #expect(drawing.image == golden.image)
        #expect(drawing.unetCallMS.count == bundle.manifest.plan.calls.count)
        let fidelity = try Fidelity(drawing, against: golden)
        #expect(fidelity.latentMaxAbs <= 1e-5 && fidelity.imageMaxAbs == 0 && fidelity.imagePSNR == nil)
    }

    @Test func replayRefusesWhatWasNotRecorded() async throws {
        let bundle = try ModelBundle(opening: Fixtures.replay)
        let components = try Replay.components(of: bundle)
        let golden = try Replay.recordedRun(of: bundle)
        let pipeline = try ImagePipeline(bundle: bundle, components: components, residency: .resident, clock: SystemClock())
        await #expect(throws: S2PError.self) { try await pipeline.draw("another text", seed: golden.spec.seed) }
        // Another seed walks to other latents, whose picture nobody recorded.
        await #expect(throws: S2PError.self) { try await pipeline.draw(golden.spec.prompt, seed: 1) }
        let second = try GoldenRun(bundle.manifest.golden[1], in: bundle)
        #expect(second.calls == [0, 5] && !second.isComplete(for: bundle.manifest.plan))
        #expect(second.output(ofCall: 5) != nil && second.output(ofCall: 1) == nil)
    }
}
