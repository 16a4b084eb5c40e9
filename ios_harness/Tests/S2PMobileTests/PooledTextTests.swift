import Testing

@testable import S2PBench
@testable import S2PMobile

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
        await #expect(throws: S2PError.self) { try await pipeline.draw("another cat", seed: 3) }
    }

    @Test func bothEncodersGetTheIdsOfTheirOwnTokenizer() throws {
        let bundle = try ModelBundle(opening: Fixtures.pooled)
        let golden = try Replay.recordedRun(of: bundle)
        let components = try Replay.components(of: bundle)
        let pipeline = try ImagePipeline(bundle: bundle, components: components, residency: .resident, clock: ManualClock())
        #expect(pipeline.tokenIDs(golden.spec.prompt) == golden.tokenIDs)
        #expect(pipeline.secondTokenIDs(golden.spec.prompt) == golden.secondTokenIDs)
        // "!" in the prompt is for the second tokenizer the token that it fills with.
        let second = try #require(golden.secondTokenIDs.last)
        let spec = try #require(bundle.manifest.conditioning).secondTokenizer
        let filling = try #require(second.firstIndex(of: Int32(spec.padID)))
        let end = try #require(second.firstIndex(of: Int32(spec.eosID)))
        #expect(filling < end)
    }
}
