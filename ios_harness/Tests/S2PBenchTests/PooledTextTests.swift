import Testing

@testable import S2PBench

/// Bundles whose time table belongs to the prompt (SDXL).
struct PooledTextTests {
    @Test(arguments: Residency.allCases)
    func drawsTheGoldenRunWithOneTableAPrompt(_ residency: Residency) async throws {
        let bundle = try ModelBundle(opening: Fixtures.pooled)
        let clock = ManualClock()
        let log = Instrument { clock.advance(milliseconds: $0) }
        // The replay compares token ids of both encoders, pooled text, time ids and the U-Net's table bit for bit.
        let components = log.wrap(try Replay.components(of: bundle))
        let pipeline = try ImagePipeline(bundle: bundle, components: components, residency: residency, clock: clock)
        let golden = try Replay.recordedRun(of: bundle)
        let drawing = try await pipeline.draw(golden.spec.prompt, seed: golden.spec.seed)
        // Up to the rounding of this machine's logarithm and cosine in the initial noise, as the replayed decoder allows.
        #expect(maximumDifference(drawing.latents, golden.quantizedLatents) <= 1e-4)
        #expect(log.count("encode") == 1, "the unconditional branch is zeros")
        #expect(log.count("table") == 1)
        #expect(log.count("predict") == bundle.manifest.plan.calls.count)
        #expect(log.count("unload time_table") == (residency == .staged ? 1 : 0))
        #expect(Set(drawing.loadMS.keys) == ["text_encoder", "time_table", "unet", "vae_decoder"])
        #expect(drawing.textEncoderMS == 3)
        await #expect(throws: BenchError.self) { try await pipeline.draw("another cat", seed: 3) }
    }

    @Test func padsTheSecondEncoderBehindTheFirstEnd() throws {
        let conditioning = Conditioning(secondPadID: 7, zeroUnconditional: true, timeIDs: [1, 2, 3, 4, 5, 6])
        #expect(conditioning.secondTokenIDs([1, 5, 9, 9, 9], eosID: 9) == [1, 5, 9, 7, 7])
        #expect(conditioning.secondTokenIDs([1, 5, 6], eosID: 9) == [1, 5, 6])
    }
}
