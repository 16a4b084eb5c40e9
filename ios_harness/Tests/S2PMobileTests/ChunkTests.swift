import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

/// A U-Net in several programs.
@Suite struct ChunkTests {
    /// A program of chunked.s2pmobile: hidden_0 = sample, hidden_1 = sample + step, hidden_2 = 2 hidden_1. The last one answers
    /// with hidden_2 - 2 hidden_0, which is 2 step where every tensor arrived.
    actor Part: NamedProgram {
        nonisolated let name: String
        nonisolated let spec: ComponentSpec
        let log: Log

        init(name: String, spec: ComponentSpec, log: Log) {
            self.name = name
            self.spec = spec
            self.log = log
        }

        func load() async throws { await log.load(name) }
        func unload() async { await log.unload(name) }

        func run(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor] {
            await log.load(name)
            func floats(_ input: String) throws -> Tensor {
                guard case .floats(let tensor)? = inputs[input] else { throw S2PError.notRecorded(what: input) }
                return tensor
            }
            func mapped(_ tensor: Tensor, _ change: (Float) -> Float) -> Tensor {
                Tensor(shape: tensor.shape, data: tensor.data.map(change))
            }
            guard case .integers(let step)? = inputs["step"] else { throw S2PError.notRecorded(what: "step") }
            switch name {
            case "unet_1":
                #expect(Set(inputs.keys) == ["sample", "step"])
                let sample = try floats("sample")
                return ["hidden_0": sample, "hidden_1": mapped(sample) { $0 + Float(step[0]) }]
            case "unet_2":
                #expect(Set(inputs.keys) == ["step", "encoder_hidden_states", "hidden_1"])
                return ["hidden_2": mapped(try floats("hidden_1")) { 2 * $0 }]
            default:
                #expect(Set(inputs.keys) == ["step", "encoder_hidden_states", "hidden_2", "hidden_0"])
                let (first, third) = (try floats("hidden_0"), try floats("hidden_2"))
                return ["noise_pred": Tensor(shape: third.shape, data: zip(third.data, first.data).map { $0 - 2 * $1 })]
            }
        }
    }

    actor Log {
        var loads: [String: Int] = [:]
        var alive: Set<String> = []
        var mostAlive = 0

        func load(_ name: String) {
            guard alive.insert(name).inserted else { return }
            loads[name, default: 0] += 1
            mostAlive = max(mostAlive, alive.count)
        }

        func unload(_ name: String) { alive.remove(name) }
    }

    private func unet(_ policy: ChunkPolicy, _ log: Log) throws -> (ProgramUNet, BundleManifest) {
        let manifest = try ModelBundle(opening: Fixtures.chunked).manifest
        let parts = try manifest.unetPrograms.map { name in
            Part(name: name, spec: try #require(manifest.components[name]), log: log)
        }
        return (ProgramUNet(programs: parts, policy: policy), manifest)
    }

    @Test(arguments: ChunkPolicy.allCases) func tensorsGoFromProgramToProgram(policy: ChunkPolicy) async throws {
        let log = Log()
        let (unet, manifest) = try unet(policy, log)
        #expect(manifest.unetPrograms == ["unet_1", "unet_2", "unet_3"] && manifest.isChunked)
        try await unet.load()
        // Whole numbers, so that no sum is rounded.
        let sample = Tensor(shape: [2, 4, 4, 6], data: (0..<192).map(Float.init))
        let text = Tensor(shape: [2, 16, 8], data: [Float](repeating: 0, count: 256))
        for step in [3, 5] {
            let output = try await unet.predict(sample: sample, step: step, embeddings: text)
            #expect(output == Tensor(shape: sample.shape, data: [Float](repeating: Float(2 * step), count: 192)))
        }
        let alive = await log.alive.count
        #expect(alive == (policy == .resident ? 3 : 0))
        #expect(await log.mostAlive == (policy == .resident ? 3 : 1))
        #expect(await log.loads["unet_2"] == (policy == .resident ? 1 : 3))
        await unet.unload()
        #expect(await log.alive.isEmpty)
    }

    /// A program that leaves what it gives in its own hands. Only its last output becomes numbers of ours.
    actor Holder: NamedProgram {
        struct Held: EngineTensor {
            let tensor: Tensor
            var shape: [Int] { tensor.shape }
        }

        nonisolated let name: String
        nonisolated let spec: ComponentSpec
        private let part: Part
        private(set) var conversions = 0

        init(_ part: Part) {
            (name, spec, self.part) = (part.name, part.spec, part)
        }

        func load() async throws {}
        func unload() async {}

        func run(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor] {
            let results = try await compute(inputs, outputs)
            conversions += results.count
            return results
        }

        func hold(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: ProgramInput] {
            try await compute(inputs, outputs).mapValues { .held(Held(tensor: $0)) }
        }

        private func compute(_ inputs: [String: ProgramInput], _ outputs: [String]) async throws -> [String: Tensor] {
            var known: [String: ProgramInput] = [:]
            for (input, value) in inputs {
                if input.hasPrefix("hidden_") {
                    guard case .held(let tensor) = value, let held = tensor as? Held else { throw S2PError.notRecorded(what: input) }
                    known[input] = .floats(held.tensor)
                } else {
                    known[input] = value
                }
            }
            return try await part.run(known, outputs: outputs)
        }
    }

    /// What goes from program to program is never converted.
    @Test func hiddenTensorsStayWithTheEngine() async throws {
        let manifest = try ModelBundle(opening: Fixtures.chunked).manifest
        let holders = try manifest.unetPrograms.map { name in
            Holder(Part(name: name, spec: try #require(manifest.components[name]), log: Log()))
        }
        let unet = ProgramUNet(programs: holders, policy: .resident)
        let sample = Tensor(shape: [2, 4, 4, 6], data: (0..<192).map(Float.init))
        let text = Tensor(shape: [2, 16, 8], data: [Float](repeating: 0, count: 256))
        let output = try await unet.predict(sample: sample, step: 3, embeddings: text)
        #expect(output == Tensor(shape: sample.shape, data: [Float](repeating: 6, count: 192)))
        var conversions: [Int] = []
        for holder in holders { conversions.append(await holder.conversions) }
        #expect(conversions == [0, 0, 1])
    }

    @Test func theGoldenRunIsDrawn() async throws {
        let bundle = try ModelBundle(opening: Fixtures.chunked)
        let run = try Replay.recordedRun(of: bundle)
        let pipeline = try ImagePipeline(
            bundle: bundle, components: try Replay.components(of: bundle), residency: .resident, clock: ManualClock()
        )
        let drawing = try await pipeline.draw(run.spec.prompt, seed: run.spec.seed)
        #expect(drawing.unetCallMS.count == bundle.manifest.plan.calls.count)
        // The fresh noise of every row goes through this machine's libm.
        #expect(maximumDifference(drawing.latents, run.quantizedLatents) <= 1e-4)
    }

    @Test func onlySplitProgramsAreReleased() throws {
        #expect(try RunOptions(arguments: ["run", "b", "--release-chunks"]).chunks == .released)
        #expect(try RunOptions(arguments: ["run", "b"]).chunks == .resident)
        try ModelBundle(opening: Fixtures.chunked).requireChunks()
        let whole = try ModelBundle(opening: Fixtures.replay)
        #expect(thrownError { try whole.requireChunks() }?.kind == "usage")
    }
}
