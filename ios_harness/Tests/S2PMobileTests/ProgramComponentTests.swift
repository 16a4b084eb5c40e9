import Testing

@testable import S2PBench
@testable import S2PMobile

/// Programs of an engine as the components of a bundle.
@Suite struct ProgramComponentTests {
    /// Answers with ones in the shapes of its outputs.
    actor Program: NamedProgram {
        nonisolated let name: String
        nonisolated let spec: ComponentSpec
        nonisolated let part: String
        private(set) var inputs: [String] = []

        init(name: String, spec: ComponentSpec, part: String) {
            self.name = name
            self.spec = spec
            self.part = part
        }

        func load() async throws {}
        func unload() async {}

        func run(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor] {
            self.inputs = inputs.keys.sorted()
            return spec.outputs.reduce(into: [:]) { tensors, output in
                let count = output.shape.reduce(1, *)
                if outputs.contains(output.name) {
                    tensors[output.name] = Tensor(shape: output.shape, data: [Float](repeating: 1, count: count))
                }
            }
        }
    }

    private func components(of bundle: ModelBundle) throws -> ComponentSet {
        try ComponentSet(of: bundle, chunks: .resident) { source in
            Program(name: source.name, spec: source.spec, part: source.part)
        } describe: { programs, _ in
            var description = EngineDescription(backend: [:])
            for program in programs.all { description.add("plays \(program.part)", of: program, among: programs) }
            return description
        }
    }

    @Test func everyPartRunsItsProgramByTheNamesOfTheManifest() async throws {
        let bundle = try ModelBundle(opening: Fixtures.pooled)
        let set = try components(of: bundle)
        #expect(set.all.map(\.name) == ["text_encoder", "time_table", "unet", "vae_decoder"])
        let encoder = try bundle.component("text_encoder").0, table = try bundle.component("time_table").0
        let (hidden, pooled) = try await set.textEncoder.encodePooled([1, 2], second: [3, 4])
        #expect([hidden.shape, pooled.shape] == encoder.outputs.map(\.shape))
        let rows = try await #require(set.timeTable).timeTable(pooled: pooled, timeIDs: pooled)
        #expect(rows.shape == table.outputs[0].shape)
        let picture = try await set.decoder.decode(hidden)
        #expect(picture.shape == (try bundle.component("vae_decoder").0).outputs[0].shape)
        // A program without such an output says so.
        await #expect(throws: S2PError.self) { try await set.textEncoder.encode([1, 2]) }
    }

    /// An encoder of pictures goes by the places of its ports, which Apple's layout calls `z` and `latent`.
    @Test(arguments: [("image", "moments"), ("z", "latent")])
    func anEncoderRunsByThePlacesOfItsPorts(_ input: String, _ output: String) async throws {
        let bundle = try ModelBundle(opening: Fixtures.picture)
        let spec = ComponentSpec(
            path: "p", precision: .float32, inputs: [TensorSpec(name: input, dtype: .float32, shape: [1, 3, 32, 48])],
            outputs: [TensorSpec(name: output, dtype: .float32, shape: [1, 8, 4, 6])], backend: "b", computeUnit: nil, chips: nil
        )
        let image = Tensor(shape: [1, 3, 32, 48], data: [Float](repeating: 0, count: 4608))
        let program = Program(name: "vae_encoder", spec: spec, part: "vae_encoder")
        #expect(try await ProgramEncoder(program: program).encode(image).shape == [1, 8, 4, 6])
        #expect(await program.inputs == [input])
        let none = ComponentSpec(path: "p", precision: .float32, inputs: [], outputs: [], backend: "b", computeUnit: nil, chips: nil)
        let broken = ProgramEncoder(program: Program(name: "vae_encoder", spec: none, part: "vae_encoder"))
        await #expect(throws: S2PError.self) { try await broken.encode(image) }
        // Only bundles that start from pictures have one; what reports tell of is the same with it and without.
        let set = try components(of: bundle)
        #expect(set.all.map(\.name) == ["vae_encoder", "text_encoder", "unet", "vae_decoder"])
        #expect(set.ofEveryDrawing.map(\.name) == ["text_encoder", "unet", "vae_decoder"])
        #expect(try components(of: try ModelBundle(opening: Fixtures.chunked)).encoder == nil)
        #expect(await set.describe(false).backend.keys.sorted() == ["text_encoder", "unet", "vae_decoder"])
    }

    @Test func programsOfOneUNetHaveOneText() async throws {
        let words = await (try components(of: try ModelBundle(opening: Fixtures.chunked))).describe(false).backend
        #expect(words["unet"] == "unet_1: plays unet; unet_2: plays unet; unet_3: plays unet")
        #expect(words["text_encoder"] == "plays text_encoder" && words["vae_decoder"] == "plays vae_decoder")
        #expect(words["unet_1"] == nil && words["time_table"] == nil)
        let single = await (try components(of: try ModelBundle(opening: Fixtures.pooled))).describe(false).backend
        #expect(single["unet"] == "plays unet" && single["time_table"] == "plays time_table")
    }
}
