import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

@Suite struct StatisticsTests {
    @Test func nearestRank() throws {
        // Wikipedia, "Percentile", nearest-rank examples: 15, 20, 35, 40, 50 has P50 = 35; of 10 values P50 is the 5th.
        let five = try #require(Summary([35, 20, 15, 50, 40]))
        #expect((five.count, five.p50, five.p90, five.p99) == (5, 35, 50, 50))
        #expect(five.trimmedMean == 32)
        let ten = try #require(Summary([3, 6, 7, 8, 8, 10, 13, 15, 16, 20]))
        #expect((ten.p50, ten.p90, ten.p99) == (8, 16, 20))
        // Without 3 and 20.
        #expect(ten.trimmedMean == 83.0 / 8)
        let hundred = try #require(Summary((1...100).map(Double.init).shuffled()))
        #expect((hundred.p50, hundred.p90, hundred.p99) == (50, 90, 99))
        #expect(hundred.trimmedMean == 50.5)
        #expect(Summary([]) == nil)
        #expect(Summary([7]) == Summary(count: 1, p50: 7, p90: 7, p99: 7, trimmedMean: 7))
    }

    @Test func peakSignalToNoise() {
        // One of four pixels off by one: mse 1/4, 10 log10(255^2 * 4) = 54.151 dB.
        let value = psnr([1, 2, 3, 5], [1, 2, 3, 4], peak: 255)
        #expect(value.map { abs($0 - 54.151404) < 1e-5 } == true)
        #expect(psnr([1, 2], [1, 2], peak: 255) == nil)
    }

    @Test func differenceSeesNaN() {
        let a = Tensor(shape: [2], data: [1, 2])
        #expect(maximumDifference(a, Tensor(shape: [2], data: [1, -1])) == 3)
        #expect(maximumDifference(a, Tensor(shape: [2], data: [.nan, 2])) == .infinity)
    }

    /// The programs of replay.s2pmobile have 189 bytes, those of chunked.s2pmobile 311, of which the three of the U-Net are 180, and
    /// those of picture.s2pmobile 254 with the encoder of pictures.
    @Test(arguments: [
        (Fixtures.replay, nil, Residency.resident, ChunkPolicy.resident), (Fixtures.replay, 1 << 20, .resident, .resident),
        (Fixtures.replay, 100, .staged, .resident), (Fixtures.chunked, 1 << 20, .resident, .resident),
        (Fixtures.chunked, 200, .staged, .resident), (Fixtures.chunked, 100, .staged, .released),
        (Fixtures.picture, 254, .resident, .resident), (Fixtures.picture, 253, .staged, .resident),
    ] as [(URL, Int?, Residency, ChunkPolicy)])
    func programsStayWithinTheBudget(_ folder: URL, _ budget: Int?, _ residency: Residency, _ chunks: ChunkPolicy) throws {
        let plan = MemoryPlan(for: try ModelBundle(opening: folder), budget: budget)
        #expect(plan.residency == residency && plan.chunks == chunks)
    }
}

@Suite struct RunOptionsTests {
    @Test func readsEveryOption() throws {
        let options = try RunOptions(arguments: [
            "run", "a.s2pmobile", "--runs", "7", "--warmup", "0", "--cooldown", "2.5", "--minimum", "0", "--min-psnr", "25",
            "--compute-unit", "cpu", "--compute-unit", "unet=neural-engine", "--stage", "--out", "r.json", "--pictures", "p", "--replay",
        ])
        #expect(options.command == .run && options.bundle == "a.s2pmobile")
        #expect(options.settings == BenchProtocol(warmupRuns: 0, runs: 7, cooldownSeconds: 2.5, minimumSeconds: 0))
        #expect(options.minimumLatentPSNR == 25 && options.residency == .staged && options.replay)
        #expect(options.out == "r.json" && options.pictures == "p")
        #expect(options.unit == .cpu && options.units == ["unet": .neuralEngine])
        let draw = try RunOptions(arguments: ["draw", "b", "a cat", "--seed", "18446744073709551615"])
        #expect(draw.command == .draw(prompt: "a cat", seed: .max))
    }

    @Test(arguments: [
        [], ["run"], ["run", "a", "b"], ["draw", "a"], ["fly", "a"], ["run", "a", "--runs"], ["run", "a", "--runs", "0"],
        ["run", "a", "--cooldown", "-1"], ["run", "a", "--cooldown", "inf"], ["run", "a", "--cooldown", "nan"],
        ["run", "a", "--compute-unit", "ane"], ["run", "a", "--compute-unit", "unet=fast"], ["run", "a", "--compute-unit", "unet="],
        ["run", "a", "--compute-unit", "cpuOnly"], ["run", "a", "--compute-unit"], ["run", "a", "--units", "gpu"], ["run", "a", "--sneed", "1"],
        ["draw", "a", "b", "--seed", "18446744073709551616"],
    ])
    func refusesBadUsage(_ arguments: [String]) {
        #expect(thrownError { _ = try RunOptions(arguments: arguments) }?.kind == "usage")
    }

    /// What was asked for comes first, then what the bundle says, then what the engine likes.
    @Test(arguments: [
        ([], "unet_1", .neuralEngine), ([], "unet_2", .gpu), ([], "unet_3", .cpu), ([], "vae_decoder", .all),
        (["gpu"], "unet_1", .gpu), (["gpu"], "unet_3", .gpu), (["cpu", "unet=all"], "unet_2", .all),
        (["unet=all", "cpu"], "vae_decoder", .cpu), (["unet=all"], "vae_decoder", .all), (["vae_decoder=gpu"], "unet_1", .neuralEngine),
        (["neural-engine"], "unet_2", .neuralEngine),
    ] as [([String], String, ComputeUnit)])
    func theComputeUnitIsChosenInOrder(_ asked: [String], _ program: String, _ expected: ComputeUnit) throws {
        let options = try RunOptions(arguments: ["run", "a"] + asked.flatMap { ["--compute-unit", $0] })
        let spec = try #require(try ModelBundle(opening: Fixtures.chunked).manifest.components[program])
        let component = program.hasPrefix("unet") ? "unet" : program
        #expect(options.engine.computeUnit(for: component, spec, choice: .cpu) == expected)
    }

    @Test func namesTheComputeUnitsThereAre() {
        let error = thrownError { _ = try RunOptions(arguments: ["run", "a", "--compute-unit", "unet=ane"]) }
        #expect(error?.description == "--compute-unit unet=ane names no compute unit; choose neural-engine, gpu, all, cpu")
    }

    @Test func launchArgumentsAndEnvironment() throws {
        #expect(try RunOptions.headless(arguments: ["App", "-NSDoc", "YES"], environment: [:]) == nil)
        let words = ["run", "x.s2pmobile", "--runs", "3"]
        let expected = try RunOptions(arguments: words)
        #expect(try RunOptions.headless(arguments: ["App", "--headless"] + words, environment: [:]) == expected)
        let environment = ["S2P_BENCH": #"["run", "x.s2pmobile", "--runs", "3"]"#]
        #expect(try RunOptions.headless(arguments: ["App"], environment: environment) == expected)
        #expect(thrownError { _ = try RunOptions.headless(arguments: [], environment: ["S2P_BENCH": "run x"]) }?.kind == "usage")
    }
}
